"""Low-rank adapters (LoRA, 2106.09685) and a camera input on a frozen U-Net, trained by a run on its own renders.

They hang on the network as hooks and are silent unless switched on, so one network serves as the frozen teacher and as the
model that is trained. No package is needed for that.

Shapes: B images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from engine.errors import UserError

# The linear maps of a diffusers attention block, which a LoRA usually takes.
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")


class Adapters(nn.Module):
    """Adapters of all attention maps of `network`, which itself stays as it is.

    A map y = W x becomes y = W x + U D x with D [rank, n_in] drawn and U [n_out, rank] zero: at first nothing changes. The
    camera, 16 numbers, goes through two layers, the last of them zero, and is added to the time embedding, as threestudio does.
    All are float32, whatever the network computes in.

    Args:
        network: a U-Net of diffusers.
        rank: 1..256.
        generator: where D and the camera's first layer are drawn from, on the CPU.
    Raises:
        UserError: code "option", if the network has no attention map.
    """

    def __init__(self, network: nn.Module, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        self._is_on = False
        self._camera: Tensor | None = None
        self._handles: list[RemovableHandle] = []
        device = next(network.parameters()).device

        def drawn(n_out: int, n_in: int) -> nn.Parameter:
            return nn.Parameter((torch.randn(n_out, n_in, generator=generator) / n_in**0.5).to(device=device))

        for name, module in network.named_modules():
            if isinstance(module, nn.Linear) and name.endswith(ADAPTED):
                key = name.replace(".", "-")
                self.down[key] = drawn(rank, module.in_features)
                self.up[key] = nn.Parameter(torch.zeros(module.out_features, rank, device=device))
                self._handles.append(module.register_forward_hook(self._hook(key)))
        if not self.down:
            raise UserError("This model has no attention that guidance.method vsd could adapt.", "Use --guidance.method sds.", "option")
        embedding = network.get_submodule("time_embedding")
        width = network.get_submodule("time_embedding.linear_2").get_parameter("weight").shape[0]
        self.camera_in = drawn(width, 16)
        self.camera_out = nn.Parameter(torch.zeros(width, width, device=device))
        self._handles.append(embedding.register_forward_hook(self._add_camera))

    def remove(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()

    @contextlib.contextmanager
    def on(self, camera_to_world: Tensor | None) -> Iterator[None]:
        """Inside, the network computes with the adapters, for a batch seen from camera_to_world [B, 4, 4]; None says nothing of it."""
        self._is_on, self._camera = True, camera_to_world
        try:
            yield
        finally:
            self._is_on, self._camera = False, None

    def _hook(self, key: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self._is_on:
                return output
            change = F.linear(F.linear(inputs[0].float(), self.down[key]), self.up[key])
            return output + change.to(dtype=output.dtype)

        return add

    def _add_camera(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self._is_on or self._camera is None:
            return output
        hidden = F.silu(F.linear(self._camera.flatten(1).float(), self.camera_in))
        return output + F.linear(hidden, self.camera_out).to(dtype=output.dtype)
