import re
from html.parser import HTMLParser

import pytest
import yaml

import mmlesson
from mmlesson.interview import cards

LESSONS = sorted(path.stem for path in (mmlesson.assets() / "cards").glob("*.yaml"))
SYLLABUS = {
    "gemini": {"gemini-natively-multimodal"},
    "flamingo": {"flamingo-gated-cross-attention", "flamingo-frozen-lm"},
    "flava": {"flava-mixed-training"},
    "clip": {
        "clip-over-supervised",
        "clip-contrastive-pairs",
        "clip-and-laion-400m",
        "clip-robustness-and-localization",
    },
}
HANGUL = re.compile("[가-힣]")
POLITE = re.compile(r"(니다|니까|시오)[.?)]?$")  # the formal style, which all Korean texts keep to


def texts(card):
    """Every bilingual text of a card."""
    return [card.question, card.answer, card.mistake, *card.rubric, *card.follow_ups]


def tiny(**changes):
    """A card as its file holds it, with fields replaced; None leaves a field out."""
    text = {"en": "Why?", "ko": "왜 그렇습니까?"}
    entry = {"id": "tiny", "question": text, "level": "mid", "minutes": 3, "rubric": [text], "answer": text}
    entry |= {"follow_ups": [text], "mistake": text, "source": "section 1"} | changes
    return {name: value for name, value in entry.items() if value is not None}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(content) makes it the cards of lesson "tiny" in an assets folder of its own; str goes in as it is."""
    monkeypatch.setattr(mmlesson, "assets", lambda: tmp_path)
    (tmp_path / "cards").mkdir()

    def write(content):
        content = content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True)
        (tmp_path / "cards" / "tiny.yaml").write_text(content, encoding="utf-8")

    return write


@pytest.fixture
def shown(monkeypatch):
    """shown(lesson, language) is what cards.show displays: (text, html)."""

    def shown(*arguments):
        emitted = []
        monkeypatch.setattr(cards.display, "show", lambda text, html: emitted.append((text, html)))
        cards.show(*arguments)
        return emitted[0]

    return shown


class Outline(HTMLParser):
    """Text outside and inside <details>, the attributes seen, and whether every tag was closed in order."""

    def __init__(self, source):
        super().__init__()
        self.open, self.outside, self.folded, self.attributes = [], "", "", set()
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.attributes |= {name for name, _ in attributes}
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "details" in self.open and "summary" not in self.open:
            self.folded += data
        else:
            self.outside += data


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_enough_well_formed_cards(lesson):
    loaded = cards.load(lesson)
    assert len(loaded) >= 4
    for card in loaded:
        assert 3 <= len(card.rubric) <= 6, card.id
        assert 2 <= len(card.follow_ups) <= 3, card.id
        assert 80 <= len(card.answer["en"].split()) <= 180, card.id
        assert card.minutes <= 10, card.id
        assert card.question["en"].rstrip().endswith(("?", ".")), card.id


@pytest.mark.parametrize("lesson", LESSONS)
def test_both_languages_say_something_in_their_own_words(lesson):
    for card in cards.load(lesson):
        for text in texts(card):
            assert set(text) == {"en", "ko"}, card.id
            assert HANGUL.search(text["ko"]) and POLITE.search(text["ko"]), (card.id, text["ko"])
            assert not HANGUL.search(text["en"]), (card.id, text["en"])
            assert text["en"].count("`") == text["ko"].count("`"), (card.id, text["en"])


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_file_can_be_read_in_review(lesson):
    source = (mmlesson.assets() / "cards" / f"{lesson}.yaml").read_text(encoding="utf-8")
    assert max(map(len, source.splitlines())) <= 120
    assert source.count("\n\n- id: ") == len(cards.load(lesson)) - 1  # one blank line between cards
    assert "\n\n\n" not in source


def test_ids_are_unique_over_all_lessons():
    assert {"attention", "vision", "clip"} <= set(LESSONS)
    ids = [card.id for lesson in LESSONS for card in cards.load(lesson)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("lesson", SYLLABUS)
def test_the_questions_of_the_syllabus_are_there(lesson):
    assert SYLLABUS[lesson] <= {card.id for card in cards.load(lesson)}


@pytest.mark.parametrize(
    "content, sentence",
    [
        (tiny(id=None), "tiny.yaml, card 1: field id is missing"),
        (tiny(mistake=None), "tiny.yaml, card 'tiny': field mistake is missing"),
        (tiny(hint="no"), "card 'tiny': field hint is unknown"),
        (tiny(id="Why exp?"), "card 'Why exp\\?': field id must be a slug"),
        (tiny(level="expert"), "field level is 'expert', expected one of junior, mid, senior"),
        (tiny(minutes=2.5), "field minutes is 2.5, expected a whole number"),
        (tiny(minutes=True), "field minutes is True, expected a whole number"),
        (tiny(source=["a", "b"]), "field source is .* expected one line"),
        (tiny(question={"en": "Why?"}), "card 'tiny': field question has no text in 'ko'"),
        (tiny(answer={"en": " ", "ko": "네."}), "field answer has no text in 'en'"),
        (tiny(mistake="Only English."), "field mistake has no text in 'en'"),
        (tiny(rubric={"en": "One", "ko": "하나"}), "field rubric must be a list"),
        (tiny(follow_ups=[]), "field follow_ups must be a list"),
        (tiny(rubric=[{"en": "One", "ko": "하나"}, {"en": "Two"}]), "field rubric, entry 2, has no text in 'ko'"),
        ("just a string", "card 1 must be a mapping"),
    ],
)
def test_a_malformed_card_gets_one_sentence(write, content, sentence):
    write([content])
    with pytest.raises(ValueError, match=sentence):
        cards.load("tiny")


def test_a_duplicate_id_is_refused(write):
    write([tiny(), tiny(id="other"), tiny()])
    with pytest.raises(ValueError, match="tiny.yaml, card 'tiny': field id is taken by an earlier card"):
        cards.load("tiny")


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("- id: one\n  question: 'open\n", r"tiny.yaml is not valid YAML: .*line \d"),
        ("", "tiny.yaml must be a list of cards"),
        ("id: one\n", "tiny.yaml must be a list of cards"),
    ],
)
def test_a_file_that_is_no_list_of_cards_is_refused(write, content, sentence):
    write(content)
    with pytest.raises(ValueError, match=sentence):
        cards.load("tiny")


def test_an_unknown_lesson_names_the_known_ones(write):
    write([tiny()])
    with pytest.raises(FileNotFoundError, match="no interview cards for '99': .*one of tiny"):
        cards.load("99")


def test_an_unknown_language_is_refused(write):
    write([tiny()])
    with pytest.raises(ValueError, match="'en', 'ko' or 'both', not in 'kr'"):
        cards.show("tiny", "kr")


@pytest.mark.parametrize("language, other", [("en", "ko"), ("ko", "en")])
@pytest.mark.parametrize("lesson", LESSONS)
def test_questions_are_open_and_the_rest_is_folded(shown, lesson, language, other):
    text, html = shown(lesson, language)
    outline = Outline(html)
    for card in cards.load(lesson):
        question, answer = card.question[language].replace("`", ""), card.answer[language].replace("`", "")
        assert question in outline.outside and question not in outline.folded
        assert answer in outline.folded and answer not in outline.outside
        assert all(point[language].replace("`", "") in outline.folded for point in (*card.rubric, *card.follow_ups))
        assert str(card.minutes) in outline.outside and card.source in outline.folded
        assert card.question[other] not in html
        assert card.question[language] in text and card.answer[language] not in text
    assert html.count("<details") == html.count("<summary>") == len(cards.load(lesson))
    assert outline.attributes == {"lang"}  # nothing that GitHub strips: no style, no class, no open details
    assert f"assets/cards/{lesson}.yaml" in text


def test_both_languages_at_once(shown):
    text, html = shown(LESSONS[0], "both")
    outline = Outline(html)
    for card in cards.load(LESSONS[0]):
        for language in ("en", "ko"):
            assert card.question[language] in text
            assert card.question[language].replace("`", "") in outline.outside
            assert card.answer[language].replace("`", "") in outline.folded
    assert html.count("<details") == 2 * len(cards.load(LESSONS[0]))


def test_texts_are_escaped_and_code_is_set_as_code(write, shown):
    text = {"en": 'Is `a<b>` < c & "d"?</details><script>x</script>', "ko": "`a<b>`는 무엇입니까?"}
    write([tiny(question=text, answer=text, rubric=[text], follow_ups=[text], mistake=text, source="<i>here</i>")])
    _, html = shown("tiny", "both")
    assert "<script" not in html and "<i>" not in html and "<b>" not in html
    assert "<code>a&lt;b&gt;</code> &lt; c &amp; &quot;d&quot;?&lt;/details&gt;" in html
    assert html.count("<details") == html.count("</details>") == 2


def test_without_a_notebook_the_questions_are_printed(write, capsys):
    write([tiny()])
    cards.show("tiny", "both")
    assert capsys.readouterr().out.splitlines() == [
        "1. Why? (mid-level, 3 minutes)",
        "1. 왜 그렇습니까? (중급, 3분)",
        "Answers: assets/cards/tiny.yaml",
    ]
