"""Video: clips of one item whose motion is known. Motion is a function of time, so a clip has any number of frames."""

from dataclasses import dataclass

import torch

from mmlesson.world.captions import MOTIONS, motion_phrase
from mmlesson.world.objects import OBJECTS
from mmlesson.world.scenes import Scenes, pairs, render

ROUND = ("ball", "cookie", "donut")  # rotation is invisible on them: left out, or the object would give the motion away
# What a motion changes from the first to the last moment: x, y (down), size and angle (counterclockwise).
_CHANGES = {
    "moves left": (-1, 0, 0, 0),
    "moves right": (1, 0, 0, 0),
    "moves up": (0, -1, 0, 0),
    "moves down": (0, 1, 0, 0),
    "grows": (0, 0, 1, 0),
    "shrinks": (0, 0, -1, 0),
    "spins left": (0, 0, 0, 1),
    "spins right": (0, 0, 0, -1),
    "stays still": (0, 0, 0, 0),
}
_TRAVEL = (0.2, 0.3)  # of the image's side
_GROWTH = (1.4, 1.6)  # times
_ROTATION = (50.0, 75.0)  # degrees
_SIZE = (0.35, 0.7)  # a drawing's longer side, at any moment
_TILT = 60.0  # degrees: a drawing's largest angle to either side, at any moment


@dataclass
class Clips:
    """A batch of N clips: the first and the last moment of each, as scenes of one item, with linear motion in between.

    motions (N,) long, indices into MOTIONS; first, last: Scenes of N.
    """

    motions: torch.Tensor
    first: Scenes
    last: Scenes

    def __len__(self):
        return len(self.motions)

    def __getitem__(self, index):
        """Some of the clips: any index that a tensor takes for its first dimension, kept as a batch."""
        if isinstance(index, int):
            index = [index]
        return Clips(self.motions[index], self.first[index], self.last[index])

    @property
    def objects(self):
        """(N,) long: which object each clip shows."""
        return self.first.objects[:, 0]

    @property
    def colors(self):
        """(N,) long: in which color."""
        return self.first.colors[:, 0]

    def at(self, times):
        """The clips at F moments, 0 the first and 1 the last: Scenes of N * F, clip by clip. times: F numbers."""
        times = torch.as_tensor(times, dtype=torch.float32)
        if times.ndim != 1 or not len(times) or times.min() < 0 or times.max() > 1:
            raise ValueError(f"times is a list of moments from 0 (first) to 1 (last); got {times.tolist()}.")

        def between(name):
            first, last = getattr(self.first, name)[:, None], getattr(self.last, name)[:, None]
            if not first.is_floating_point():
                return first.expand(-1, len(times), -1).flatten(0, 1)
            return torch.lerp(first, last, times.view(1, -1, *[1] * (first.ndim - 2))).flatten(0, 1)

        return Scenes(*(between(name) for name in Scenes.__dataclass_fields__))

    def frames(self, count=8):
        """`count` moments at equal distances, the first and the last among them: Scenes of N * count, clip by clip."""
        if not (isinstance(count, int) and count >= 2):
            raise ValueError(f"A clip has 2 or more frames, or nothing would move; got {count!r}.")
        return self.at(torch.linspace(0, 1, count))


def video(n, seed=0, *, motion=None, split="train"):
    """n random clips of one item each. The same seed gives the same clips.

    seed: an int or a torch.Generator (on the CPU). motion: one of MOTIONS for all clips, n indices into MOTIONS, or
    None to draw each. split: which (object, color) pairs may appear ("train", "held_out", "all").
    Every motion draws its places, sizes and angles from the same ranges, within which the whole path must fit, so one
    frame says little about the motion (an item far left is only unlikely to be about to move left).
    """
    if n < 1:
        raise ValueError(f"video needs n >= 1 clips; got n={n}.")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    motions = _indices(motion, n, generator)
    table = pairs(split)
    table = table[[OBJECTS[o].name not in ROUND for o in table[:, 0].tolist()]]
    chosen = table[torch.randint(len(table), (n,), generator=generator)]

    def uniform(low, high, *shape):
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    def path(low, high, change, *shape):
        """Both ends of a path of length `change` that lies anywhere between low and high."""
        start = uniform(low + (-change).clamp(min=0), high - change.clamp(min=0), *shape)
        return start, start + change

    sign = torch.tensor([_CHANGES[m] for m in MOTIONS], dtype=torch.float32)[motions]  # (n, 4)
    sizes = path(*torch.tensor(_SIZE).log(), uniform(*_GROWTH).log() * sign[:, 2])
    angles = path(-_TILT, _TILT, uniform(*_ROTATION) * sign[:, 3])
    backgrounds = uniform(0.8, 1.0, 3)

    def moment(k, centers):
        size, angle = sizes[k].exp()[:, None], torch.deg2rad(angles[k])[:, None]
        return Scenes(chosen[:, :1], chosen[:, 1:], centers[:, None], size, angle, backgrounds)

    # The box that holds the drawing at every moment, were it to stay at the origin: small enough that it can travel.
    still = Clips(motions, *(moment(k, torch.zeros(n, 2)) for k in (0, 1)))
    reach = still.frames(9).boxes().view(n, 9, 4)
    reach = torch.cat([reach[..., :2].amin(dim=1), reach[..., 2:].amax(dim=1)], dim=1)
    shrink = ((1 - _TRAVEL[1]) / (reach[:, 2:] - reach[:, :2]).amax(dim=1)).clamp(max=1)
    reach = reach * shrink[:, None]
    centers = path(-reach[:, :2], 1 - reach[:, 2:], uniform(*_TRAVEL)[:, None] * sign[:, :2], 2)
    clips = Clips(motions, *(moment(k, centers[k]) for k in (0, 1)))
    for scenes in (clips.first, clips.last):
        scenes.sizes *= shrink[:, None]
    return clips


def _indices(motion, n, generator):
    if motion is None:
        return torch.randint(len(MOTIONS), (n,), generator=generator)
    if isinstance(motion, str):
        if motion not in MOTIONS:
            raise ValueError(f"There is no motion {motion!r}; choose one of {', '.join(MOTIONS)}.")
        return torch.full((n,), MOTIONS.index(motion))
    motions = torch.as_tensor(motion)
    if motions.shape != (n,) or motions.is_floating_point() or motions.min() < 0 or motions.max() >= len(MOTIONS):
        raise ValueError(f"motion is a word or {n} whole numbers from 0 to {len(MOTIONS) - 1}; got {motion!r}.")
    return motions.long()


def render_video(clips, frames=8, side=32, device=None):
    """The images of a batch of clips: (N, frames, 3, side, side) floats in [0, 1], on `device` as in render."""
    return render(clips.frames(frames), side, device=device).unflatten(0, (len(clips), frames))


def video_captions(clips, template="{}"):
    """One caption per clip: list of N strings like "a red cat moves left"."""
    clips = zip(clips.objects.tolist(), clips.colors.tolist(), clips.motions.tolist())
    return [template.format(motion_phrase(*clip)) for clip in clips]
