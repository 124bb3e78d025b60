"""Interview cards: question, points to tick, model answer, usual mistake, follow-ups, in English and Korean.

    from mmlesson.interview import cards
    cards.show("clip")

The cards of a lesson are one file, assets/cards/<lesson>.yaml; `code` between backticks is set as code.
"""

import html
import re
from dataclasses import dataclass, fields

import mmlesson
from mmlesson import display

LANGUAGES = ("en", "ko")
LEVELS = ("junior", "mid", "senior")
LABELS = {
    "en": {
        "junior": "junior",
        "mid": "mid-level",
        "senior": "senior",
        "minutes": "{} minutes",
        "folded": "Answer {}",
        "rubric": "A good answer",
        "answer": "Model answer",
        "mistake": "The usual mistake",
        "follow_ups": "Follow-up questions",
        "source": "Source",
    },
    "ko": {
        "junior": "주니어",
        "mid": "중급",
        "senior": "시니어",
        "minutes": "{}분",
        "folded": "답변 {}",
        "rubric": "채점 기준",
        "answer": "모범 답안",
        "mistake": "흔한 실수",
        "follow_ups": "꼬리 질문",
        "source": "출처",
    },
}


@dataclass(frozen=True)
class Card:
    """One interview question. Each text is a dict {language: str} with every language in LANGUAGES."""

    id: str  # a slug, unique over all lessons
    question: dict
    level: str  # one of LEVELS
    minutes: int  # for the answer, spoken
    rubric: tuple  # of texts: the points that an interviewer ticks
    answer: dict
    follow_ups: tuple  # of texts
    mistake: dict
    source: str  # section of a paper, file of a repository, or lesson


def load(lesson):
    """The cards of `lesson`, named like its notebook ("clip"): list of Card, in the order of the file.

    Raises FileNotFoundError if it has none, ValueError that names file, card and field if a card is malformed.
    """
    import yaml

    path = mmlesson.assets() / "cards" / f"{lesson}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise FileNotFoundError(
            f"There are no interview cards for {lesson!r}: expected the name of a lesson that has some, "
            f"one of {', '.join(known) or '(none found)'}."
        )
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        raise ValueError(
            f"{path.name} is not valid YAML: {error.problem}, line {error.problem_mark.line + 1}. "
            "Indent by two spaces and write texts as block scalars (>-)."
        ) from None
    if not isinstance(entries, list):
        raise ValueError(f"{path.name} must be a list of cards, each of which starts with `- id:`.")
    cards = []
    for number, entry in enumerate(entries, 1):
        card = _card(entry, path.name, number)
        if any(card.id == earlier.id for earlier in cards):
            raise ValueError(f"{path.name}, card {card.id!r}: field id is taken by an earlier card; choose another.")
        cards.append(card)
    return cards


def show(lesson, language="en"):
    """Show the cards of `lesson` ("clip"): question, level and minutes; all the rest folds out on a click.

    language: "en", "ko" or "both". Raises ValueError for another language, and what load() raises.
    """
    if language not in (*LANGUAGES, "both"):
        raise ValueError(f"Cards come in the languages 'en', 'ko' or 'both', not in {language!r}.")
    languages = LANGUAGES if language == "both" else (language,)
    cards = load(lesson)
    display.show(_as_text(cards, languages, lesson), html=_as_html(cards, languages))


def _card(entry, file, number):
    """The Card that entry `number` of the file describes. Errors name it by its id once it has one."""
    names = [field.name for field in fields(Card)]
    if not isinstance(entry, dict):
        raise ValueError(f"{file}, card {number} must be a mapping with the fields {', '.join(names)}.")
    where = f"{file}, card {entry.get('id', number)!r}"
    for name in names:
        if name not in entry:
            raise ValueError(f"{where}: field {name} is missing. A card has the fields {', '.join(names)}.")
    for name in entry:
        if name not in names:
            raise ValueError(f"{where}: field {name} is unknown. A card has the fields {', '.join(names)}.")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", str(entry["id"])):
        raise ValueError(f"{where}: field id must be a slug, lower-case words joined by hyphens, like 'why-exp'.")
    if entry["level"] not in LEVELS:
        raise ValueError(f"{where}: field level is {entry['level']!r}, expected one of {', '.join(LEVELS)}.")
    if type(entry["minutes"]) is not int or entry["minutes"] < 1:
        raise ValueError(f"{where}: field minutes is {entry['minutes']!r}, expected a whole number from 1 up.")
    if not isinstance(entry["source"], str):
        raise ValueError(f"{where}: field source is {entry['source']!r}, expected one line of text.")
    for name in ("question", "answer", "mistake"):
        _check_text(entry[name], f"{where}: field {name}")
    for name in ("rubric", "follow_ups"):
        if not isinstance(entry[name], list) or not entry[name]:
            raise ValueError(f"{where}: field {name} must be a list of texts, each of which starts with `- en:`.")
        for number, point in enumerate(entry[name], 1):
            _check_text(point, f"{where}: field {name}, entry {number},")
    return Card(**{**entry, "rubric": tuple(entry["rubric"]), "follow_ups": tuple(entry["follow_ups"])})


def _check_text(text, where):
    for language in LANGUAGES:
        found = text.get(language) if isinstance(text, dict) else None
        if not isinstance(found, str) or not found.strip():
            raise ValueError(f"{where} has no text in {language!r}. Every text is written as {{en: ..., ko: ...}}.")


def _facts(card, language):
    """ "senior, 6 minutes", in one language."""
    labels = LABELS[language]
    return f"{labels[card.level]}, {labels['minutes'].format(card.minutes)}"


def _as_text(cards, languages, lesson):
    """The plain twin: the questions, and where the answers are."""
    lines = [
        f"{number}. {card.question[language]} ({_facts(card, language)})"
        for number, card in enumerate(cards, 1)
        for language in languages
    ]
    return "\n".join([*lines, f"Answers: assets/cards/{lesson}.yaml"])


def _as_html(cards, languages):
    """An ordered list with plain tags only: GitHub drops scripts and styles from a notebook's output."""
    items = []
    for number, card in enumerate(cards, 1):
        questions = "<br>".join(f'<strong lang="{key}">{_inline(card.question[key])}</strong>' for key in languages)
        answers = "".join(_folded(card, number, key) for key in languages)
        items.append(f"<li><p>{questions}<br><em>{_facts(card, languages[0])}</em></p>{answers}</li>")
    return f"<ol>{''.join(items)}</ol>"


def _folded(card, number, language):
    """Everything but the question, in a closed <details>; it needs no script."""
    labels = LABELS[language]

    def paragraph(name, text):
        return f"<p><strong>{labels[name]}</strong><br>{_inline(text)}</p>"

    def bullets(name, texts):
        points = "".join(f"<li>{_inline(text[language])}</li>" for text in texts)
        return f"<p><strong>{labels[name]}</strong></p><ul>{points}</ul>"

    return (
        f'<details lang="{language}"><summary>{labels["folded"].format(number)}</summary>'
        + bullets("rubric", card.rubric)
        + paragraph("answer", card.answer[language])
        + paragraph("mistake", card.mistake[language])
        + bullets("follow_ups", card.follow_ups)
        + paragraph("source", card.source)
        + "</details>"
    )


def _inline(text):
    """Text made safe for HTML, with `code` between backticks as <code>."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
