"""The convolutional ResNet and the ViT: He et al.'s networks where the scheme is resnet, counted exactly, with every scheme."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from resbench.architectures.backbones.preact_resnet import PreActResNet, as_images, as_positions
from resbench.architectures.backbones.transformer import Transformer
from resbench.architectures.backbones.vit import VisionTransformer, patches, sine_cosine
from resbench.architectures.registry import available
from resbench.architectures.scheme import SchemeFactory
from resbench.architectures.schemes.hc import HyperConnections
from resbench.architectures.schemes.identity_hc import IdentityHyperConnections
from resbench.architectures.schemes.mhc import ManifoldHyperConnections
from resbench.architectures.schemes.resnet import ResNet
from resbench.architectures.schemes.wide import WideResNet

SCHEMES: dict[str, SchemeFactory] = {
    "resnet": ResNet,
    "hc": lambda width, n: HyperConnections(width, n, scale_output_init=False),
    "mhc": ManifoldHyperConnections,
    "identity-hc": IdentityHyperConnections,
}
NETWORKS: dict[str, Any] = {
    "basic": lambda scheme: PreActResNet(scheme, 10, 8, width=4),
    "bottleneck": lambda scheme: PreActResNet(scheme, 10, 8, size=None, depth=20, block="bottleneck", width=4),
    "vit": lambda scheme: VisionTransformer(scheme, 10, 8, patch_size=2, size=None, depth=2, width=16, n_heads=2),
}
BOTH = pytest.mark.parametrize("network", list(NETWORKS))


def build(network: str, scheme: str = "resnet") -> Any:
    torch.manual_seed(3)
    return NETWORKS[network](SCHEMES[scheme])


def images(count: int = 3, side: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("size", "millions"),
    # He et al. 2015, table 6, and 2016, table 4: their parameter counts.
    [
        ("resnet-20", 0.27),
        ("resnet-32", 0.46),
        ("resnet-44", 0.66),
        ("resnet-56", 0.85),
        ("resnet-110", 1.7),
        ("resnet-164", 1.7),
    ],
)
def test_sizes_are_the_papers(size: str, millions: float) -> None:
    with torch.device("meta"):
        network = PreActResNet(ResNet, 10, 32, size=size)
    assert network.params_total() / 1e6 == pytest.approx(millions, rel=0.03)
    assert network.depth == int(size.removeprefix("resnet-"))


def test_depth_counts_the_layers_with_weights() -> None:
    with torch.device("meta"):
        network = PreActResNet(ResNet, 10, 32, size="resnet-56")
    layers = [
        m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "projection" not in name
    ]
    assert len(layers) == 56
    assert network.scheme.n_sublayers == 27 - 2  # 3 x 9 units, of which two change the shape


class ByHand(nn.Module):
    """A basic pre-activation stage of He et al. with the scheme's RMSNorm, from another network's modules and written out."""

    def __init__(self, other: PreActResNet) -> None:
        super().__init__()
        self.other = other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        net = self.other
        x = net.stem(x)
        for stage in range(3):
            if stage:
                t = net.transitions[stage]
                a = torch.relu(t.norm(x))
                x = t.projection(a) + t.unit.out(torch.relu(t.unit.norms[0](t.unit.inner[0](a))))
            for norm, branch in zip(net.scheme.of(stage).norms, net.branches[stage], strict=True):
                square = x.square().mean(1, keepdim=True)
                a = torch.relu(x * torch.rsqrt(square + 1e-6) * norm.weight[:, None, None])
                unit = branch.unit
                x = x + unit.out(torch.relu(unit.norms[0](unit.inner[0](a))))
        return net.head(torch.relu(net.final_norm(x)).mean((-2, -1)))


def test_with_resnet_it_is_the_network_of_the_paper() -> None:
    network = build("basic").double().train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = images().double()
    expected = ByHand(network)(x)
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-10)


def test_layouts_are_views_and_undo_each_other() -> None:
    x = torch.randn(2, 12, 5).unsqueeze(-1).expand(2, 12, 5, 1).squeeze(-1)[:, :9]  # [2, 9, 5]
    image = as_images(x, 3)
    assert image.shape == (2, 5, 3, 3)
    assert image[1, 4, 2, 0] == x[1, 6, 4]
    assert torch.equal(as_positions(image), x)
    assert image.data_ptr() == x.data_ptr()


@BOTH
@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_flops_and_parameters_are_counted_exactly(network: str, scheme: str) -> None:
    model = build(network, scheme).eval()
    assert model.params_total() == sum(p.numel() for p in model.parameters())
    plain = build(network)
    assert model.params_total() - model.params_connection() == plain.params_total()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        plain.eval()(images(1))
    connections = plain.scheme.connection_flops() * (1 if network != "vit" else plain.n_patches)
    assert counter.get_total_flops() == plain.flops_per_token() - connections
    own = model.scheme.connection_flops() * (1 if network != "vit" else plain.n_patches)
    assert model.flops_per_token() - own == counter.get_total_flops()
    assert own > connections or scheme == "resnet"


@BOTH
@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_the_same_seed_gives_every_scheme_the_same_branches(network: str, scheme: str) -> None:
    ours, plain = build(network, scheme), build(network)
    theirs = dict(plain.named_parameters())
    shared = [name for name, p in ours.named_parameters() if name in theirs and not name.startswith("scheme")]
    assert any(".out.weight" in name for name in shared)
    assert all(torch.equal(ours.get_parameter(name), theirs[name]) for name in shared)
    # Streams start as copies, are read through a norm, and written to alike: the same function of the image.
    nn.init.normal_(ours.head.weight, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(plain.head.weight, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.train()(images(8)), plain.train()(images(8)), rtol=2e-2, atol=2e-2)


@BOTH
@pytest.mark.parametrize("on", ["params", "flops"])
def test_the_wide_control_matches_what_it_is_matched_to(network: str, on: str) -> None:
    wide, plain = (
        NETWORKS[network](factory)
        for factory in (lambda w, n: WideResNet(w, n, on=on), ResNet)  # type: ignore[arg-type]
    )
    mhc = build(network, "mhc")
    wanted, reached, start = ((m.params_total() if on == "params" else m.flops_per_token()) for m in (mhc, wide, plain))
    assert start < wanted
    # Half a hidden channel per stage of these tiny networks (eight hidden units of the ViT's MLP) is a few per cent.
    assert abs(reached - wanted) < 0.2 * (wanted - start) + 0.02 * wanted


@BOTH
@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_gradients_reach_everything_and_images_do_not_mix_in_evaluation(network: str, scheme: str) -> None:
    model = build(network, scheme)
    nn.init.normal_(model.head.weight, std=0.1)
    cross_entropy(model(images()), torch.tensor([0, 1, 2])).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still
    assert all(
        p.grad.abs().sum() > 0
        for name, p in model.named_parameters()
        if name.endswith("weight") and p.ndim > 1 and "scheme" not in name
    )
    model.eval()
    torch.testing.assert_close(model(images())[:1], model(images()[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", list(available("scheme")))
def test_every_installed_scheme_trains_in_both(scheme: str) -> None:
    for network in (NETWORKS["basic"], NETWORKS["vit"]):
        torch.manual_seed(0)
        model = network(available("scheme")[scheme].load())
        nn.init.normal_(model.head.weight, std=0.1)
        before = cross_entropy(model(images()), torch.tensor([0, 1, 2]))
        before.backward()
        assert model.no_weight_decay() <= dict(model.named_parameters()).keys()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad
        assert cross_entropy(model(images()), torch.tensor([0, 1, 2])) < before


def test_observers_see_sublayers_numbered_through_the_stages() -> None:
    model = build("basic", "mhc").eval()
    seen: list[tuple[int, tuple[int, ...]]] = []

    def observe(i: int, state: Any, ctx: Any, u: torch.Tensor, y: torch.Tensor) -> None:
        mix = model.scheme.mixing(state, ctx, i)
        assert u.shape == y.shape
        assert mix.shape[-2:] == (4, 4)
        seen.append((i, tuple(u.shape[1:])))

    model(images(), observe=observe)
    assert seen == [*((i, (64, 4)) for i in range(3)), *((i, (16, 8)) for i in (3, 4)), *((i, (4, 16)) for i in (5, 6))]


def test_patches_are_cut_in_order() -> None:
    image = torch.arange(3 * 4 * 4).reshape(1, 3, 4, 4)
    cut = patches(image, 2)
    assert cut.shape == (1, 4, 12)
    assert cut[0, 1].reshape(3, 2, 2).tolist() == image[0, :, :2, 2:].tolist()  # to the right of the first
    assert cut[0, 2].reshape(3, 2, 2).tolist() == image[0, :, 2:, :2].tolist()
    table = sine_cosine(4, 16)
    assert table.shape == (16, 16)
    assert len({tuple(row.tolist()) for row in table}) == 16
    assert torch.equal(table[1, :8], table[2, :8])  # the same row
    assert torch.equal(table[1, 8:], table[5, 8:])  # the same column


def test_attention_stays_within_documents() -> None:
    """Changing a document changes nothing in the others, and a document alone in its sequence reads the same."""
    torch.manual_seed(0)
    model = Transformer(ManifoldHyperConnections, 11, 12, size=None, depth=2, width=16, n_heads=2)
    tokens = torch.randint(11, (1, 12))
    documents = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3])
    logits = model(tokens, documents)
    changed = tokens.clone()
    changed[0, :5] = (changed[0, :5] + 1) % 11
    after = model(changed, documents)
    assert not torch.allclose(after[:, :5], logits[:, :5])
    assert torch.equal(after[:, 5:], logits[:, 5:])
    torch.testing.assert_close(
        model(tokens[:, 5:9]), logits[:, 5:9], rtol=1e-4, atol=1e-5
    )  # rotary positions are relative
    one = torch.zeros_like(documents)
    torch.testing.assert_close(model(tokens, one), model(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PreActResNet(ResNet, 10, 32, size="resnet-50"), "size='resnet-50' is not a known size: choose one of resnet-20"),
        (lambda: PreActResNet(ResNet, 10, 32, size=None, depth=21), r"depth=21: expected 6n \+ 2 with n >= 2"),
        (lambda: PreActResNet(ResNet, 10, 32, depth=20, block="bottleneck").forward(images()), "images of 8 x 8 pixels"),
        (lambda: PreActResNet(ResNet, 10, 30), "image_size=30: expected a multiple of 4"),
        (lambda: VisionTransformer(ResNet, 10, 32, patch_size=5), "patch_size=5: expected a divisor of image_size=32"),
        (lambda: VisionTransformer(ResNet, 10, 32, size="100k").forward(images()), "images of 8 x 8 pixels"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_or_read_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
