"""Answers to the Vision lesson's exercises, written independently of its checks."""

import torch
import torch.nn.functional as F

from mmlesson.models import vision as model
from mmlesson.models.attention import merge_heads, split_heads


def by_einsum(images, patch):
    grid = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return torch.einsum("nchywx->nhwcyx", grid).flatten(3).flatten(1, 2)


def by_loops(images, patch):
    rows, columns = range(0, images.size(2), patch), range(0, images.size(3), patch)
    return torch.stack([images[:, :, y : y + patch, x : x + patch].flatten(1) for y in rows for x in columns], dim=1)


def with_square_grid(images, patch):
    N, C, H, _ = images.shape
    side = H // patch
    return images.reshape(N, C, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(N, side * side, -1)


WRONG = {
    "patchify": {
        "uses unfold, which this exercise asks you to do without": lambda images, patch: F.unfold(images, patch).mT,
        "uses pixel_unshuffle": lambda images, patch: F.pixel_unshuffle(images, patch).flatten(2).mT,
        "raised RuntimeError in the line `return images.reshape(N, C, side, patch": with_square_grid,
        "expected torch.float64, the dtype of the inputs": lambda images, patch: by_einsum(images.float(), patch),
        "changes its input images in place": lambda images, patch: by_einsum(images.mul_(2), patch),
        "(2, 3, 4, 6) and patch 2 differ by up to": lambda images, patch: by_loops(images.flip(3), patch),
    }
}
RIGHT = {"patchify": {"loops": by_loops, "einsum": by_einsum}}


class InALoop(model.VisionTransformer):
    def forward(self, images):
        grid = self.conv1(images)
        tokens = [self.class_embedding.repeat(len(images), 1)]
        tokens += [grid[:, :, y, x] for y in range(grid.size(2)) for x in range(grid.size(3))]
        x = self.ln_pre(torch.stack(tokens, dim=1) + self.positional_embedding)
        for block in self.transformer.blocks:
            x = block(x)
        return (self.ln_post(x) @ self.proj)[:, 0]


class Padded(model.VisionTransformer):
    def forward(self, images):
        x = F.pad(self.conv1(images).flatten(2).permute(0, 2, 1), (0, 0, 1, 0))
        position = self.positional_embedding.clone()
        position[0] = position[0] + self.class_embedding
        return self.ln_post(self.transformer(self.ln_pre(x + position))[:, 0, :]) @ self.proj


class Normalized(model.VisionTransformer):
    def forward(self, images):
        return F.normalize(InALoop.forward(self, images), dim=-1)


class OneClassToken(model.VisionTransformer):
    def forward(self, images):
        x = self.conv1(images).flatten(2).mT
        return torch.cat([self.class_embedding[None, None], x], dim=1)


class WithoutGradient(model.VisionTransformer):
    def forward(self, images):
        return InALoop.forward(self, images.detach())


WRONG["VisionTransformer"] = {
    "the features for images (2, 3, 8, 8) and patches of 4 differ": Normalized,
    "raised RuntimeError in the line `return torch.cat([self.class_embedding[None, None]": OneClassToken,
    "no gradient flows": WithoutGradient,
}
RIGHT["VisionTransformer"] = {"loops": InALoop, "padding": Padded}


class ByQuery(model.AttentionPool):
    def forward(self, x):
        cells = x.permute(0, 2, 3, 1).flatten(1, 2)
        mean = cells.mean(dim=1) + self.positional_embedding[0]
        tokens = torch.stack([mean, *(cells + self.positional_embedding[1:]).unbind(1)], dim=1)
        q = split_heads(self.q_proj(mean)[:, None], self.heads)
        k, v = split_heads(self.k_proj(tokens), self.heads), split_heads(self.v_proj(tokens), self.heads)
        return self.c_proj(self.attend(q, k, v).flatten(1))


class WithMask(model.AttentionPool):
    def forward(self, x):
        x = x.flatten(2).mT
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        q, k, v = (split_heads(f(x), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        everything = torch.ones(1, x.size(1), dtype=torch.bool)
        return self.c_proj(merge_heads(self.attend(q[:, :, :1], k, v, everything)).squeeze(1))


class Largest(model.AttentionPool):
    def forward(self, x):
        cells = x.flatten(2).mT
        x = torch.cat([cells.amax(1, keepdim=True), cells], 1) + self.positional_embedding
        q, k, v = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        return self.c_proj(merge_heads(self.attend(*(split_heads(y, self.heads) for y in (q, k, v))))[:, 0])


class SquareGrid(model.AttentionPool):
    def forward(self, x):
        side = x.size(2)
        return ByQuery.forward(self, x.view(len(x), -1, side, side))


class InPlace(model.AttentionPool):
    def forward(self, x):
        x -= 1
        return ByQuery.forward(self, x)


WRONG["AttentionPool"] = {
    "differ": Largest,
    "raised RuntimeError in the line `return ByQuery.forward(self, x.view": SquareGrid,
    "changes its input x in place": InPlace,
}
RIGHT["AttentionPool"] = {"the query by itself": ByQuery, "a mask that allows all": WithMask}
