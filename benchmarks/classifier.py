"""The judge: a small network that names prop and colour of a picture. Trained on renders alone, so it knows no diffusion model.

python -m benchmarks.classifier --data FOLDER_OF_SHARDS        train it (minutes), prints its accuracy on held-out shapes
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.toybox.pictures import LOOKS, Pictures
from engine.toybox.props import KINDS

WEIGHTS = Path(__file__).parent / "classifier.safetensors"
IMAGE_SIZE = 64


class Classifier(nn.Module):
    """Images [B, H, W, 3] in [0, 1] -> logits over KINDS [B, K] and over LOOKS [B, L]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:]):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.kind = nn.Linear(128 * 16, len(KINDS))
        self.look = nn.Linear(128 * 16, len(LOOKS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.permute(0, 3, 1, 2)
        if x.shape[-1] != IMAGE_SIZE:
            x = F.interpolate(x, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True, align_corners=False)
        features = self.body(x * 2 - 1).flatten(1)
        return self.kind(features), self.look(features)

    @torch.no_grad()
    def name(self, *images: Tensor) -> list[tuple[str, str]]:
        """(prop, look) of each picture [B, H, W, 3]; of several batches that show the same, the opinion on average."""
        nouns = list(KINDS)
        opinions = [self(batch) for batch in images]
        kind, look = (sum(head.softmax(-1) for head in heads) for heads in zip(*opinions))
        return [(nouns[int(k)], LOOKS[int(c)]) for k, c in zip(kind.argmax(-1), look.argmax(-1))]


def load_classifier() -> Classifier:
    judge = Classifier()
    judge.load_state_dict({name: value.float() for name, value in load_file(str(WEIGHTS)).items()})
    return judge.eval()


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """A little blur and grain, so that the judge looks at shapes and not at render artefacts."""
    n, height, width, _ = images.shape
    x = images.permute(0, 3, 1, 2)
    small = F.interpolate(x, scale_factor=0.5, mode="area")
    soft = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    x = torch.lerp(x, soft, torch.rand((n, 1, 1, 1), generator=generator))
    grain = torch.randn(x.shape, generator=generator) * 0.04 * torch.rand((n, 1, 1, 1), generator=generator)
    return (x + grain).clamp(0, 1).permute(0, 2, 3, 1)


def train(data: Path, *, seconds: float, batch: int = 64) -> None:
    torch.manual_seed(0)
    pictures = Pictures(data, seed=11)
    judge = Classifier()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=0.02)
    generator = torch.Generator().manual_seed(12)
    began, step = time.monotonic(), 0
    while (share := (time.monotonic() - began) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = 1.5e-3 * max(0.02, 1 - share)
        # Every third batch is untextured: there the shape alone tells, and that is the harder half of what the judge is asked.
        drawn = pictures.draw(batch, shading="clay" if step % 3 == 0 else None)
        kind, look = judge(disturb(drawn.images, generator))
        # Untextured pictures carry no colour; nothing is asked of the second head there.
        loss = F.cross_entropy(kind, drawn.kinds) + F.cross_entropy(look, drawn.looks, ignore_index=-1, reduction="sum") / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(step, round(time.monotonic() - began), round(float(loss.detach()), 3), flush=True)
        step += 1
    save_file({name: value.half().contiguous() for name, value in judge.state_dict().items()}, str(WEIGHTS))


@torch.no_grad()
def accuracy(data: Path, *, n: int = 2000) -> tuple[float, float]:
    """Share of pictures of this folder whose prop and whose look it names."""
    judge, pictures = load_classifier(), Pictures(data, seed=99)
    kinds = looks = colored = 0
    for _ in range(n // 100):
        drawn = pictures.draw(100)
        kind, look = judge(drawn.images)
        kinds += int((kind.argmax(-1) == drawn.kinds).sum())
        has_look = drawn.looks >= 0
        looks += int((look.argmax(-1) == drawn.looks)[has_look].sum())
        colored += int(has_look.sum())
    return kinds / n, looks / max(colored, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the judge of Toybox pictures.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, help="shards it is not trained on")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.data, seconds=args.seconds)
    prop, look = accuracy(args.held_out or args.data)
    where = " of held-out shapes" if args.held_out else ""
    print(f"names the prop of {100 * prop:.1f} % and the look of {100 * look:.1f} % of pictures{where}")


if __name__ == "__main__":
    main()
