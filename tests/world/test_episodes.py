"""Episodes and questions: every answer is true by an independent look at the spec, and nothing else gives it away."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from safetensors import safe_open

import mmlesson
from mmlesson import world
from mmlesson.world.captions import plural

COLORS, OBJECTS = [c.name for c in world.COLORS], [o.name for o in world.OBJECTS]
NUMBERS = ["no", "one", "two", "three", "four"]
SINGULAR = {form: name for name in OBJECTS for form in (name, plural(name))}
EXTENDED = world.Tokenizer(world.vocabulary(extended=True))


def test_the_default_tokenizer_is_the_one_of_the_shipped_checkpoints():
    plain = world.Tokenizer()
    words = " ".join(plain.words).encode()
    assert hashlib.sha256(words).hexdigest() == "710189c050e2c2163f5510f9c61d9cd8acc2cd0a017abc17535e242a62796ece"
    text = "a picture of a red apple, a blue dog and two cats"
    assert plain.encode([text]).tolist() == [[221, 2, 151, 138, 2, 164, 10, 1, 2, 26, 77, 7, 210, 57, 222]]
    assert torch.equal(plain.encode([text]), plain.encode([text + "?!;"])), "what is no word is left out, as ever"
    for checkpoint in mmlesson.assets().glob("checkpoints/clip_*.safetensors"):
        with safe_open(checkpoint, "pt") as weights:
            assert weights.get_slice("text_encoder.token_embedding.weight").get_shape()[0] == len(plain) == 223


def test_the_extended_tokenizer_adds_words_and_moves_none():
    plain = world.Tokenizer()
    assert EXTENDED.words[: len(plain) - 2] == plain.words[:-2]
    assert len(set(EXTENDED.words)) == len(EXTENDED) and EXTENDED.eot == len(EXTENDED) - 1
    assert len(set(world.NAMES)) == 64 and not set(world.NAMES) & set(plain.words)
    text = "<image> what color is the dog? red ; <image> dax ;"
    assert EXTENDED.decode(EXTENDED.encode([text])) == [text]
    with pytest.raises(ValueError, match="no word 'dax'"):
        plain.encode(["dax"])


# Questions


def items_of(scenes, i):
    """[(object's name, color's name or None, box)] of one scene."""
    one = scenes[i]
    rows = zip(one.objects[0].tolist(), one.colors[0].tolist(), one.boxes()[0].tolist())
    return [(OBJECTS[o], (COLORS + [None])[c], box) for o, c, box in rows if o >= 0]


def beside(a, b):
    """The sides of b on which all of a lies."""
    eps = 2e-3
    sides = {"left of": a[2] <= b[0] + eps, "right of": a[0] >= b[2] - eps,
             "above": a[3] <= b[1] + eps, "below": a[1] >= b[3] - eps}  # fmt: skip
    return {side for side, true in sides.items() if true}


def named(phrase, things):
    """The things that "red apple" or "apple" can mean."""
    *color, name = phrase.split()
    return [t for t in things if t[0] == name and (not color or t[1] == color[0])]


def is_true(question, answer, things):
    """Whether the answer is right and the only one, from the text of the question and the spec alone."""
    sides = "left of|right of|above|below"
    if found := re.fullmatch(r"what color (is|are) the (\w+)\?", question):
        return {t[1] for t in things if t[0] == SINGULAR[found[2]]} == {answer}
    if question == "what is it?":
        return [t[0] for t in things] == [answer]
    if found := re.fullmatch(rf"what is ({sides}) the ([\w ]+)\?", question):
        (there,) = named(found[2], things)
        there_or_not = [t for t in things if found[1] in beside(t[2], there[2])]
        return [t[0] for t in there_or_not] == [answer] and len(beside(there_or_not[0][2], there[2])) == 1
    if found := re.fullmatch(r"what is (\w+)\?", question):
        return {t[0] for t in things if t[1] == found[1]} == {answer}
    if found := re.fullmatch(r"where (is|are) the ([\w ]+)\?", question):
        (here,) = named(found[2], things)
        (other,) = (t for t in things if t is not here)
        return {side.split()[0] for side in beside(here[2], other[2])} == {answer}
    if found := re.fullmatch(r"how many (\w+) are there\?", question):
        counted = things if found[1] == "things" else [t for t in things if t[0] == SINGULAR[found[1]]]
        return NUMBERS[len(counted)] == answer != "no"
    if found := re.fullmatch(r"(is|are) there (?:an? )?([\w ]+)\?", question):
        return answer == ("yes" if named(found[2], things) else "no")
    found = re.fullmatch(rf"(is|are) the ([\w ]+?) ({sides}) the ([\w ]+)\?", question)
    (a,), (b,) = named(found[2], things), named(found[4], things)
    return len(beside(a[2], b[2])) == 1 and answer == ("yes" if found[3] in beside(a[2], b[2]) else "no")


def every_sort(seed, n=150, split="train"):
    return world.join([
        world.sample(n, seed=seed * 10 + items, items=items, same=same, distinct=False, split=split)
        for items in (1, 2, 3, 4) for same in (False, True)
    ])  # fmt: skip


@pytest.mark.parametrize("kind", world.QUESTIONS)
def test_every_answer_is_true_and_the_only_one(kind):
    scenes = every_sort(seed=1)
    scenes = scenes[world.askable(scenes, (kind,))]
    assert len(scenes) > 100
    asked, answers = world.questions(scenes, seed=2, kinds=(kind,))
    for i, (question, answer) in enumerate(zip(asked, answers)):
        assert is_true(question, answer, items_of(scenes, i)), (question, answer, world.describe(scenes, i))
    texts = [f"{q} {a}" for q, a in zip(asked, answers)]
    assert EXTENDED.decode(EXTENDED.encode(texts)) == texts


def test_natural_colors_and_plural_nouns_are_asked_about_in_good_english():
    item = world.Item
    plain = world.scene(item("owl"))
    assert not world.askable(plain, ("color",)).any()
    asked = {world.questions(plain, seed)[0][0] for seed in range(60)}
    assert {"what is it?", "is there an owl?", "how many owls are there?"} <= asked
    two = world.scene(item("scissors", "red", x=0.25, size=0.4), item("cat", "blue", x=0.75, size=0.4))
    asked = {q: a for seed in range(300) for q, a in zip(*world.questions(two, seed))}
    assert asked["what color are the scissors?"] == "red" and asked["where are the scissors?"] == "left"
    assert asked["are there red scissors?"] == "yes" and asked["are there blue scissors?"] == "no"
    assert asked["are the red scissors left of the cat?"] == "yes"
    three = world.sample(1, seed=0, items=3, same=True)
    assert not world.askable(three, ("where", "relation", "neighbor")).any()
    asked = {q: a for seed in range(60) for q, a in zip(*world.questions(three, seed))}
    name = OBJECTS[three.objects[0, 0]]
    assert asked[f"what color are the {plural(name)}?"] == COLORS[three.colors[0, 0]]


@pytest.mark.parametrize("kind", ["exists", "relation"])
def test_yes_and_no_are_balanced_and_the_words_alone_do_not_tell(kind):
    def ask(seed):
        scenes = every_sort(seed, n=700)
        return world.questions(scenes[world.askable(scenes, (kind,))], seed, (kind,))

    asked, answers = ask(1)
    assert 0.46 < answers.count("yes") / len(answers) < 0.54
    # The best guess from how often each word of the question went with "yes" stays a guess on other questions.
    went = {answer: Counter(w for q, a in zip(asked, answers) if a == answer for w in q.split()) for answer in
            ("yes", "no")}  # fmt: skip

    def guess(question):
        odds = torch.tensor([(went["yes"][w] + 5) / (went["no"][w] + 5) for w in question.split()]).log().sum()
        return "yes" if odds > 0 else "no"

    right = [guess(q) == a for q, a in zip(*ask(2))]
    assert 0.44 < sum(right) / len(right) < 0.56


def test_what_is_denied_is_nearly_there():
    scenes = world.sample(1000, seed=3, items=2)
    near = exchanged = 0
    denied = [(i, q) for i, (q, a) in enumerate(zip(*world.questions(scenes, 3, ("exists",)))) if a == "no"]
    colored = [(i, q.rstrip("?").split()[-2:]) for i, q in denied if q.rstrip("?").split()[-2] in COLORS]
    for i, (color, name) in colored:
        names, colors = {t[0] for t in items_of(scenes, i)}, {t[1] for t in items_of(scenes, i)}
        near += name in names or color in colors
        exchanged += name in names and color in colors
        assert not world.held_out(OBJECTS.index(name), COLORS.index(color)), "held-out pairs would always be denied"
    assert near == len(colored) > 300 and exchanged > 0.4 * near


# Episodes


def objects_of(episodes):
    return episodes.media.objects[:, 0].view(episodes.starts.shape)


@pytest.mark.parametrize("kind", world.EPISODE_KINDS)
def test_the_stream_is_image_question_answer_end(kind):
    episodes = world.episodes(6, seed=1, kind=kind, shots=3)
    image, end = EXTENDED.index["<image>"], EXTENDED.index[";"]
    assert episodes.starts.shape == (6, 4) and len(episodes.media) == 24 and len(episodes) == 6
    assert episodes.tokens.shape == episodes.labels.shape and episodes.tokens.dtype == torch.long
    for n, (tokens, labels) in enumerate(zip(episodes.tokens.tolist(), episodes.labels.tolist())):
        said = EXTENDED.decode(episodes.tokens[n : n + 1])[0]
        chunks = [f"{prompt} {text} ;" for prompt, text in zip(episodes.prompts[n], episodes.texts[n])]
        assert said == " ".join(chunks) and said.startswith("<image>")
        scored = set()
        for start, text in zip(episodes.starts[n].tolist(), episodes.texts[n]):
            stop = start + len(text.split())
            assert [EXTENDED.words[t] for t in tokens[start:stop]] == text.split() and tokens[stop] == end
            scored |= set(range(start, stop))
        assert labels == [t if i in scored else -100 for i, t in enumerate(tokens)]
        assert tokens.count(image) == 4
    images = episodes.images(device="cpu")
    assert images.shape == (6, 4, *([8] if kind == "motion" else []), 3, 32, 32)


def test_nothing_stands_between_an_image_and_its_new_word():
    episodes = world.episodes(6, seed=1)
    assert torch.equal(episodes.starts, (torch.arange(9) * 3 + 1).expand(6, 9))


@pytest.mark.parametrize("recolor", [False, True])
def test_new_words_name_objects(recolor):
    episodes = world.episodes(200, seed=2, ways=3, recolor=recolor)
    objects, colors = objects_of(episodes), episodes.media.colors.view(200, 9)
    several = 0
    for n, words in enumerate(episodes.texts):
        names = dict(zip(objects[n].tolist(), words))
        assert [names[o] for o in objects[n].tolist()] == words, "one object, one name"
        assert len(set(names.values())) == len(names) <= 3 and set(names.values()) <= set(world.NAMES)
        assert words[-1] in words[:-1], "the query was named"
        several += any(len(set(colors[n][objects[n] == o].tolist())) > 1 for o in names)
        for i in range(9):
            assert episodes.seen[n, i] == (objects[n, :i] == objects[n, i]).sum()
    assert (several > 190) if recolor else (several == 0)
    places = torch.cat([episodes.media.centers[:, 0], episodes.media.sizes], dim=1).view(200, 9, 3)
    assert (torch.cdist(places, places) + torch.eye(9)).min() > 1e-4, "each image shows its object in its own way"
    boxes = episodes.media.boxes()
    assert boxes.min() > -2e-3 and boxes.max() < 1 + 2e-3


def test_new_words_leak_neither_by_position_nor_by_name():
    episodes = world.episodes(4000, seed=3, ways=2, shots=4)
    answers = episodes.answers[..., 0]
    same = (answers[:, -1:] == answers[:, :-1]).float().mean(dim=0)
    assert ((same - 0.5).abs() < 0.08).all(), "no example is likelier than another to be the query's"
    assert (same.max() - same.min()) < 0.05
    assert (answers[:, -1].bincount(minlength=len(EXTENDED))[-66:-2] > 25).all(), "every name is used"
    # An object's name in one episode says nothing of its name in the next.
    first, second = ({(o, w) for o, w in zip(objects_of(e)[:, -1].tolist(), e.answers[:, -1, 0].tolist())}
                     for e in (episodes, world.episodes(4000, seed=4, ways=2, shots=4)))  # fmt: skip
    assert len(first & second) / len(first) == pytest.approx(len(second) / (96 * 64), abs=0.05)


def test_new_words_keep_to_the_split_and_to_the_objects_allowed():
    for split, out in (("train", False), ("held_out", True)):
        media = world.episodes(200, seed=5, split=split, recolor=True).media
        assert (world.held_out(media.objects, media.colors) == out).all()
    media = world.episodes(200, seed=5, objects=range(72, 96)).media
    assert set(media.objects.flatten().tolist()) == set(range(72, 96))


@pytest.mark.parametrize("kind", ["attribute", "color", "object", "count"])
def test_attributes_are_true_and_one_for_each_episode(kind):
    episodes = world.episodes(120, seed=6, kind=kind, attributes=("color", "object", "count"))
    asked = Counter()
    for n, words in enumerate(episodes.texts):
        things = [items_of(episodes.media, n * 9 + i) for i in range(9)]
        truth = {
            "color": [found[0][1] for found in things],
            "object": [found[0][0] for found in things],
            "count": [NUMBERS[len(found)] for found in things],
        }
        assert all(len({t[:2] for t in found}) == 1 for found in things)
        asked.update(name for name, true in truth.items() if true == words)
    assert sum(asked.values()) == 120
    assert min(asked[k] for k in ("color", "object", "count")) > 20 if kind == "attribute" else asked[kind] == 120


def test_the_images_do_not_tell_which_attribute_is_asked():
    one, other = (world.episodes(50, seed=7, kind="attribute", attributes=a).media
                  for a in (("color", "object"), ("object",)))  # fmt: skip
    assert torch.equal(one.objects, other.objects) and torch.equal(one.centers, other.centers)
    counted = world.episodes(50, seed=7, kind="attribute", attributes=("color", "count")).media
    assert (counted.counts.bincount()[1:] > 60).all(), "1 to 4 things, equally often"
    assert counted.counts.view(50, 9).diff(dim=1).bool().float().mean() > 0.6, "and in any order"


def test_relations_questions_captions_and_motions_are_true():
    for kind in ("relation", "question"):
        episodes = world.episodes(100, seed=8, kind=kind)
        for i in range(900):
            question = episodes.prompts[i // 9][i % 9].removeprefix("<image> ")
            assert is_true(question, episodes.texts[i // 9][i % 9], items_of(episodes.media, i))
    sides = Counter(w for row in world.episodes(100, seed=8, kind="relation").texts for w in row)
    assert set(sides) == {"left", "right", "above", "below"} and min(sides.values()) > 170
    episodes = world.episodes(20, seed=8, kind="caption")
    assert episodes.texts[3][2] == world.describe(episodes.media, 3 * 9 + 2)
    episodes = world.episodes(20, seed=8, kind="motion", shots=2)
    assert [w for row in episodes.texts for w in row] == [world.MOTIONS[m] for m in episodes.media.motions.tolist()]
    assert episodes.images(frames=16, device="cpu").shape == (20, 3, 16, 3, 32, 32)


def perfect_logits(episodes, labels):
    """Logits that say at each position the label of the next one."""
    following = torch.cat([labels[:, 1:], labels[:, :1]], dim=1).clamp(min=0)
    return torch.nn.functional.one_hot(following, len(EXTENDED)).float()


@pytest.mark.parametrize("kind", ["new_words", "caption", "motion", "question"])
def test_correct_scores_the_prediction_before_each_answer_and_all_of_its_words(kind):
    episodes = world.episodes(5, seed=9, kind=kind, shots=3)
    logits = perfect_logits(episodes, episodes.labels)
    assert episodes.correct(logits).shape == (5, 4) and episodes.correct(logits).all()
    assert not episodes.correct(logits.roll(1, dims=1)).any(), "a model that is one position late"
    last = episodes.starts[2, 1] + len(episodes.texts[2][1].split()) - 2
    logits[2, last] = 0.0
    expected = torch.ones(5, 4, dtype=torch.bool)
    expected[2, 1] = False
    assert torch.equal(episodes.correct(logits), expected), "one wrong word makes the answer wrong"


def test_shuffled_examples_say_nothing_of_their_pictures():
    plain, control = (world.episodes(600, seed=10, shuffled=shuffled) for shuffled in (False, True))
    assert plain.texts == control.texts and torch.equal(plain.media.objects, control.media.objects)
    assert [row[-1] for row in control.shown] == [row[-1] for row in plain.texts]
    assert all(sorted(a) == sorted(b) for a, b in zip(control.shown, plain.texts))

    def lookup(episodes):
        """How often the word that most often went with the query's object is the right one."""
        right = 0
        for objects, shown, words in zip(objects_of(episodes).tolist(), episodes.shown, episodes.texts):
            went = Counter(w for o, w in zip(objects[:-1], shown) if o == objects[-1])
            best = [w for w, count in went.items() if count == max(went.values())]
            right += (words[-1] in best) / len(best)
        return right / len(episodes)

    # Not quite 1/2: where an episode names one object seven times, the words of its examples are nearly all the same.
    assert lookup(plain) == 1 and 0.4 < lookup(control) < 0.65
    said = torch.tensor([[a == b for a, b in zip(*rows)] for rows in zip(control.shown, control.texts)])
    labelled = control.labels.gather(1, control.starts) != -100
    assert torch.equal(labelled, said), "a wrong label is never to be learned"


def test_take_keeps_the_chunks_that_are_asked_for():
    pool = world.episodes(4, seed=11, ways=8, shots=20)
    keep = torch.tensor([[3, 0, 20], [19, 5, 20], [1, 2, 20], [7, 6, 20]])
    few = pool.take(keep)
    assert few.starts.shape == (4, 3)
    for n, row in enumerate(keep.tolist()):
        assert few.texts[n] == [pool.texts[n][k] for k in row]
    assert torch.equal(few.images(device="cpu"), pool.images(device="cpu")[torch.arange(4)[:, None], keep])
    assert torch.equal(few.seen[:, 2], sum((few.answers[:, i] == few.answers[:, 2]).all(dim=1) for i in (0, 1)))


def test_scenes_of_one_item_are_drawn_as_sharp_as_alone():
    episodes = world.episodes(6, seed=12, kind="count", shots=3)
    pictures, media = episodes.images(device="cpu").flatten(0, 1), episodes.media
    for i in range(24):
        items = int(media.counts[i])
        alone = world.Scenes(*(t[i : i + 1] if n == "backgrounds" else t[i : i + 1, :items]
                               for n, t in vars(media).items()))  # fmt: skip
        assert torch.allclose(pictures[i], world.render(alone, device="cpu")[0], atol=1e-5)
    assert len(set(media.counts.tolist())) > 2


def test_in_words_the_same_episode_needs_no_eyes():
    seen, told = (world.episodes(3, seed=13, in_words=in_words) for in_words in (False, True))
    assert seen.texts == told.texts and EXTENDED.index["<image>"] not in told.tokens
    for n in range(3):
        for i in range(9):
            thing = world.noun_phrase(told.media.objects[n * 9 + i, 0], told.media.colors[n * 9 + i, 0])
            assert told.prompts[n][i] == thing
    assert told.correct(perfect_logits(told, told.labels)).all()


def test_episodes_are_built_from_any_images_and_strings():
    images = world.join([world.scene(world.Item("cat", "red")), world.scene(world.Item("dog"))])
    episodes = world.build_episodes(images, [["dax", "a red cat"]], prompts=[["<image> what is it?", "<image>"]])
    assert EXTENDED.decode(episodes.tokens) == ["<image> what is it? dax ; <image> a red cat ;"]
    assert episodes.seen.tolist() == [[0, 0]] and episodes.starts.tolist() == [[5, 8]]


def test_same_seed_same_episodes_in_a_fresh_process():
    code = (
        "import hashlib; from mmlesson import world; h = hashlib.sha256()\n"
        "for kind in world.EPISODE_KINDS:\n"
        "    e = world.episodes(8, 5, kind, shots=3); h.update(e.tokens.numpy().tobytes())\n"
        "    h.update(e.images(device='cpu').numpy().tobytes())\n"
        "print(h.hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                       env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in "12"
    ]  # fmt: skip
    assert runs[0].stdout == runs[1].stdout != "", runs[0].stderr
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(world.episodes(4, generator).tokens, world.episodes(4, 5).tokens)
    assert not torch.equal(world.episodes(4, generator).tokens, world.episodes(4, 5).tokens)


def test_some_of_the_episodes_are_the_same_episodes():
    all_of_them = world.episodes(6, 3, "caption", shots=2, shuffled=True)
    some = all_of_them[torch.tensor([4, 1])]
    assert some.texts == [all_of_them.texts[4], all_of_them.texts[1]]
    assert some.shown == [all_of_them.shown[4], all_of_them.shown[1]]
    assert torch.equal(some.images(), all_of_them.images()[[4, 1]])
    length = some.tokens.shape[1]
    assert torch.equal(some.tokens, all_of_them.tokens[[4, 1], :length])
    assert torch.equal(some.labels, all_of_them.labels[[4, 1], :length])
    assert len(all_of_them[2]) == 1 and len(all_of_them[1:4]) == 3
