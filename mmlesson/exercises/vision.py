"""The exercise of the Vision lesson."""

from mmlesson.exercises import DTYPES, exercise, randn


def _flat(grid):
    return grid.flatten(3).flatten(1, 2)


def _patchify(axes="NhwCyx", split="NChywx", finish=_flat):
    """Patches with their axes in this order: h, w count the patches of an image; y, x the pixels of a patch."""

    def answer(images, patch):
        N, C, H, W = images.shape
        sizes = {"N": N, "C": C, "h": H // patch, "w": W // patch, "y": patch, "x": patch}
        grid = images.reshape([sizes[axis] for axis in split]).permute([split.index(axis) for axis in axes])
        return finish(grid.reshape(N, H // patch, W // patch, C, patch, patch))

    return answer


@exercise(
    verified="order of patches, order within a patch, images that are not square, sides of one, both float types",
    returns={"the patch tensor": "(N, P, C * patch * patch)"},
    forbidden=("unfold", "pixel_unshuffle", "conv2d"),
    correct=_patchify(),
    mistakes={
        "a reshape alone scrambles the pixels: split both sides, permute, flatten.": lambda images, patch: (
            images.reshape(len(images), -1, images.size(1) * patch**2)
        ),
        "the patches run down the columns: take them row by row, as one reads.": _patchify("NwhCyx"),
        "the channels come last in a patch: Conv2d has them first.": _patchify("NhwyxC"),
        "each patch is transposed: within a patch the row comes before the column.": _patchify("NhwCxy"),
        "a row holds one channel of several patches: C belongs behind the axes that count patches.": _patchify(
            "NChwyx"
        ),
        "a row holds pixels of several patches: swap the patch's rows with the grid's columns.": _patchify("NhCywx"),
        "a patch collects far pixels: split a side into (count, patch), not (patch, count).": _patchify(split="NCyhxw"),
        "height and width are swapped: split H into H // patch and patch, and W into W // patch and patch.": (
            lambda images, patch: _patchify()(images.reshape(images.mT.shape), patch)
        ),
        "the last two axes are swapped: the patches come before what they hold, (N, P, C * patch * patch).": _patchify(
            finish=lambda grid: _flat(grid).mT
        ),
        "the grid is not flattened: join rows and columns into one axis, P.": _patchify(finish=lambda g: g.flatten(3)),
        "the patches are not flattened: join channel, row and column.": _patchify(finish=lambda g: g.flatten(1, 2)),
    },
)
def patchify(answer):
    """patchify(images, patch) -> (N, P, C * patch * patch), the patches row by row, each in the order (C, row, column).

    images (N, C, H, W); H and W are multiples of patch. With this order a Linear on the patches equals a Conv2d whose
    kernel and stride are the patch.
    """
    # Sides that all differ, one image, one channel, one patch that is square, patches of one pixel, and all of these.
    shapes = (2, 3, 4, 6), (3, 2, 12, 6), (1, 3, 6, 4), (2, 1, 4, 10), (2, 3, 4, 4), (2, 3, 2, 5), (1, 1, 1, 1)
    for i, (shape, patch) in enumerate(zip(shapes, (2, 3, 2, 2, 4, 1, 1))):
        images = randn(*shape, seed=i, dtype=DTYPES[i % 2])
        answer.case(f"for images {shape} and patch {patch}", images=images, patch=patch)
