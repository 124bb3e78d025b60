"""Video: what a clip is said to do is what its frames do, and no single frame tells."""

import pytest
import torch
import torch.nn.functional as F

from mmlesson import world
from mmlesson.world import glyphs
from mmlesson.world.video import ROUND

EVERY = torch.arange(90) % len(world.MOTIONS)


@pytest.fixture(scope="module")
def clips():
    return world.video(90, seed=0, motion=EVERY)


def test_each_clip_does_what_it_is_said_to_do_in_every_frame_and_nothing_else(clips):
    frames = clips.frames(8)
    x, y = frames.centers.view(90, 8, 2).unbind(dim=2)
    steps = torch.stack([x, y, frames.sizes.view(90, 8), frames.angles.view(90, 8)]).diff(dim=2)
    # Which quantity changes, and which way: y points down, angles are counterclockwise.
    expected = {
        "moves left": (0, -1), "moves right": (0, 1), "moves up": (1, -1), "moves down": (1, 1), "grows": (2, 1),
        "shrinks": (2, -1), "spins left": (3, 1), "spins right": (3, -1), "stays still": None,
    }  # fmt: skip
    assert set(expected) == set(world.MOTIONS)
    for n, motion in enumerate(clips.motions.tolist()):
        change = expected[world.MOTIONS[motion]]
        moved = [k for k in range(4) if steps[k, n].abs().max() > 1e-6]
        assert moved == ([] if change is None else [change[0]])
        if change is not None:
            assert (steps[change[0], n] * change[1] > 0.01).all()


def test_the_images_show_it():
    clips = world.video(90, seed=0, motion=EVERY)
    clips.first.backgrounds.fill_(1.0)  # the last moment's too: it is the same tensor
    images = world.render_video(clips, frames=8, side=64, device="cpu")
    assert images.shape == (90, 8, 3, 64, 64) and images.min() >= 0 and images.max() <= 1
    ink = 1 - images.amin(dim=2)
    place = torch.arange(64.0)
    total = ink.sum(dim=(2, 3))
    x, y = ((ink.sum(dim=d) * place).sum(dim=2) / total for d in (2, 3))
    spread = ink.gt(0.1).sum(dim=(2, 3)).float()
    move_x, move_y, growth = x[:, -1] - x[:, 0], y[:, -1] - y[:, 0], spread[:, -1] / spread[:, 0]
    said = [world.MOTIONS[m] for m in clips.motions.tolist()]
    for n, motion in enumerate(said):
        assert (move_x[n] < -10) == (motion == "moves left") and (move_x[n] > 10) == (motion == "moves right")
        assert (move_y[n] < -10) == (motion == "moves up") and (move_y[n] > 10) == (motion == "moves down")
        assert (growth[n] > 1.5) == (motion == "grows") and (growth[n] < 1 / 1.5) == (motion == "shrinks")
        assert ((images[n, 0] - images[n, -1]).abs().max() == 0) == (motion == "stays still")
    # Turned back by the angle, the last frame of a spinning clip is the first again.
    for n in (n for n, motion in enumerate(said) if motion.startswith("spins")):
        turned = world.Scenes(**vars(clips.last[n]) | {"angles": clips.first[n].angles})
        same = world.render(turned, 64, device="cpu") - world.render(clips.first[n], 64, device="cpu")
        assert same.abs().max() < 1e-5
        assert clips.first[n].angles != clips.last[n].angles


def test_spinning_left_is_counterclockwise_in_the_image():
    one = world.scene(world.Item("carrot", size=0.6))
    turned = world.Scenes(**vars(one) | {"angles": one.angles + torch.pi / 2})
    images = [world.render(s, 64, device="cpu")[0] for s in (one, turned)]
    assert (torch.rot90(images[0], 1, dims=(1, 2)) - images[1]).abs().mean() < 0.01  # rot90: counterclockwise


def test_a_clip_can_be_drawn_with_any_number_of_frames(clips):
    few, many = clips.frames(8), clips.frames(15)
    for name in ("centers", "sizes", "angles", "objects", "backgrounds"):
        dense = getattr(many, name).unflatten(0, (90, 15))[:, ::2]
        assert torch.allclose(dense.float(), getattr(few, name).unflatten(0, (90, 8)).float(), atol=1e-6)
    twice = world.render_video(clips[:4], frames=16, device="cpu")
    assert twice.shape == (4, 16, 3, 32, 32)
    ends = world.render_video(clips[:4], frames=2, device="cpu")
    assert torch.equal(twice[:, [0, -1]], ends)
    assert len(clips[3]) == 1 and clips[3].motions == clips.motions[3]


def test_everything_stays_inside_the_image():
    boxes = world.video(2000, seed=1).frames(9).boxes()
    assert boxes.min() >= -2e-3 and boxes.max() <= 1 + 2e-3
    assert world.video(2000, seed=1).frames(9).sizes.min() > 0.25


def test_one_frame_tells_little_and_two_tell_all():
    clips = world.video(8000, seed=2)
    frames = clips.frames(2)
    state = torch.cat([frames.centers[:, 0] * 4, frames.sizes.log() * 6, frames.angles * 2], dim=1).view(8000, 2, 4)

    def neighbors_agree(known):
        """How often the 51 most similar of 7,000 clips vote for the right motion."""
        near = torch.cdist(known[7000:], known[:7000]).topk(51, largest=False).indices
        vote = F.one_hot(clips.motions[:7000], len(world.MOTIONS))[near].sum(dim=1).argmax(dim=1)
        return (vote == clips.motions[7000:]).float().mean()

    assert neighbors_agree(state[:, 1] - state[:, 0]) > 0.98
    assert neighbors_agree(state[:, 0]) < 0.35 and neighbors_agree(state[:, 1]) < 0.35
    either = torch.randint(2, (8000,), generator=torch.Generator().manual_seed(0))
    assert neighbors_agree(state[torch.arange(8000), either]) < 0.3


def test_what_is_round_is_left_out_and_nothing_else():
    drawings = glyphs.sprites(torch.arange(96), torch.zeros(96, dtype=torch.long), 32)
    turn = torch.deg2rad(torch.tensor(20.0))
    rotation = torch.tensor([[turn.cos(), -turn.sin(), 0], [turn.sin(), turn.cos(), 0]]).expand(96, 2, 3)
    grid = F.affine_grid(rotation, (96, 1, 32, 32), align_corners=False)
    turned = F.grid_sample(drawings, grid, align_corners=False)
    before, after = (rgba[:, :3] + 1 - rgba[:, 3:] for rgba in (drawings, turned))  # on white paper
    change = (after - before).abs().mean(dim=(1, 2, 3))
    assert {world.OBJECTS[i].name for i in change.argsort()[:3].tolist()} == set(ROUND)
    shown = world.video(3000, seed=3).objects.unique().tolist()
    assert {o.name for o in world.OBJECTS} - {world.OBJECTS[i].name for i in shown} == set(ROUND)


def test_splits_and_seeds():
    train, unseen = world.video(1000, seed=4), world.video(200, seed=4, split="held_out")
    assert not world.held_out(train.objects, train.colors).any()
    assert world.held_out(unseen.objects, unseen.colors).all()
    again = world.video(1000, seed=torch.Generator().manual_seed(4))
    assert torch.equal(train.motions, again.motions) and torch.equal(train.last.centers, again.last.centers)
    generator = torch.Generator().manual_seed(4)
    world.video(1000, generator)
    assert not torch.equal(train.objects, world.video(1000, generator).objects)
    assert (train.motions.bincount(minlength=9) > 70).all(), "the motions are equally frequent"


def test_captions_of_clips():
    clips = world.video(300, seed=5)
    captions = world.video_captions(clips)
    for n, caption in enumerate(captions):
        thing, motion = world.noun_phrase(clips.objects[n], clips.colors[n]), world.MOTIONS[clips.motions[n]]
        assert caption == f"{thing} {motion}" or thing.endswith("s") and caption == f"{thing} {_plural(motion)}"
    assert any("scissors move " in caption for caption in world.video_captions(world.video(3000, seed=0)))
    tokenizer = world.Tokenizer(world.vocabulary(extended=True))
    assert tokenizer.decode(tokenizer.encode(captions)) == captions
    assert world.video_captions(clips[0], template="look at {}") == [f"look at {captions[0]}"]


def _plural(motion):
    verb, *rest = motion.split()
    return " ".join([verb.removesuffix("s"), *rest])
