"""The bidirectional network against its definition, written as loops over positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seqprior.bidirectional import PAD_CODE, BidirectionalConfig, BidirectionalConvLM, reverse_complement

CONFIG = BidirectionalConfig(width=6, kernel=3, dilations=(1, 2, 4), head=5)
REACH = 15  # 1 + 2 * (1 + 2 + 4)


pytestmark = pytest.mark.usefixtures("one_thread")


def random_network(seed: int = 0, config: BidirectionalConfig = CONFIG) -> BidirectionalConvLM:
    """A network whose every parameter matters: those that start at zero are drawn too."""
    torch.manual_seed(seed)
    network = BidirectionalConvLM(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


def random_codes(rows: int, length: int, seed: int = 0, unknown: float = 0.05) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    codes = rng.integers(4, size=(rows, length))
    codes[rng.random(codes.shape) < unknown] = PAD_CODE
    return torch.from_numpy(codes)


def rms(vector: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector**2).mean() + 1e-5) * scale


def tower_by_loops(weights: dict[str, np.ndarray], codes: list[int]) -> list[np.ndarray]:
    width, zero = CONFIG.width, np.zeros(CONFIG.width)
    states = [zero] + [weights["embedding"][code] if code < 4 else zero for code in codes[:-1]]
    for block, dilation in enumerate(CONFIG.dilations):
        name = f"blocks.{block}."
        mix = weights[name + "mix"].reshape(width, width, CONFIG.kernel)
        normed = [rms(state, weights[name + "scale"]) for state in states]
        following = []
        for at, state in enumerate(states):
            mixed = zero
            for tap in range(CONFIG.kernel):
                source = at - (CONFIG.kernel - 1 - tap) * dilation
                if source >= 0:
                    mixed = mixed + mix[:, :, tap] @ normed[source]
            following.append(state + weights[name + "project"] @ np.maximum(mixed, 0.0))
        states = following
    return [rms(state, weights["scale"]) for state in states]


def logits_by_loops(network: BidirectionalConvLM, codes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    other = [3 - code if code < 4 else code for code in reversed(codes)]
    left, right = tower_by_loops(weights, codes), tower_by_loops(weights, other)[::-1]

    def read(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        hidden = weights["join"] @ np.concatenate([first, second]) + weights["join_bias"]
        return weights["readout"] @ np.maximum(hidden, 0.0) + weights["readout_bias"]

    forward = [read(a, b) for a, b in zip(left, right, strict=True)]
    reverse = [read(b, a)[[3, 2, 1, 0]] for a, b in zip(left, right, strict=True)]
    return np.array(forward), np.array(reverse)


@pytest.mark.parametrize("seed", range(3))
def test_logits_equal_the_definition(seed):
    network, codes = random_network(seed), random_codes(2, 40, seed)
    with torch.no_grad():
        forward, reverse = network(codes)
    for row in range(2):
        expected = logits_by_loops(network, codes[row].tolist())
        np.testing.assert_allclose(forward[row], expected[0], atol=1e-4)
        np.testing.assert_allclose(reverse[row], expected[1], atol=1e-4)
    assert (forward - reverse).abs().max() > 0.05, "the two strands are different readings"


def test_reach_is_what_the_shape_gives():
    assert CONFIG.reach == REACH
    assert BidirectionalConfig.from_dict(CONFIG.to_dict()) == CONFIG


def test_a_prediction_does_not_depend_on_its_own_base_but_on_every_other_one_in_reach():
    network, codes = random_network(), random_codes(1, 61, unknown=0)
    middle = 30
    with torch.no_grad():
        before = torch.stack(network(codes), -1)[0, middle]
        for at in range(61):
            moved = 0.0
            for base in range(4):
                changed = codes.clone()
                changed[0, at] = base
                moved = max(moved, (torch.stack(network(changed), -1)[0, middle] - before).abs().max().item())
            inside = 0 < abs(at - middle) <= REACH
            assert (moved > 1e-6) == inside, at


def test_a_window_of_the_reach_gives_the_answer_of_the_whole_sequence():
    network, codes = random_network(), random_codes(1, 200)
    with torch.no_grad():
        whole = torch.stack(network(codes), -1)
        for at in (REACH, 77, 199 - REACH):
            own = torch.stack(network(codes[:, at - REACH : at + REACH + 1]), -1)
            torch.testing.assert_close(own[0, REACH], whole[0, at], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4), (1, 3, 3, 12), (1, 1, 5)])
@pytest.mark.parametrize("kernel", [2, 3])
def test_the_pyramid_gives_the_states_of_the_middle_base(dilations, kernel):
    network = random_network(1, BidirectionalConfig(width=6, kernel=kernel, dilations=dilations, head=5))
    reach = network.config.reach
    codes = random_codes(3, 2 * reach + 1, unknown=0.1)
    codes[1, : reach + 2] = PAD_CODE  # the left end of a contig
    codes[2, reach + 1 :] = PAD_CODE
    with torch.no_grad():
        for whole, site in zip(network.states(codes), network.site_states(codes), strict=True):
            torch.testing.assert_close(site, whole[:, reach], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dilations", [(2, 4), (1, 2, 3), (1, 4, 2)])
def test_dilations_that_do_not_divide_each_other_are_refused(dilations):
    with pytest.raises(ValueError, match="must start with 1 and each divide the next"):
        BidirectionalConfig(dilations=dilations)


def test_unknown_bases_read_like_the_end_of_the_sequence():
    network, codes = random_network(), random_codes(3, 50)
    framed = torch.nn.functional.pad(codes, (7, 12), value=PAD_CODE)
    with torch.no_grad():
        for own, padded in zip(network(codes), network(framed), strict=True):
            torch.testing.assert_close(padded[:, 7:-12], own, atol=1e-5, rtol=0)


def test_the_other_strand_gives_the_same_numbers_with_strands_positions_and_bases_swapped():
    network, codes = random_network(), random_codes(2, 50)
    with torch.no_grad():
        forward, reverse = network(codes)
        other_forward, other_reverse = network(reverse_complement(codes))
    torch.testing.assert_close(other_forward.flip(1, 2), reverse, atol=1e-5, rtol=0)
    torch.testing.assert_close(other_reverse.flip(1, 2), forward, atol=1e-5, rtol=0)


def test_reverse_complement_swaps_bases_and_keeps_unknown_ones():
    codes = torch.tensor([[0, 1, 2, 3, 4, 0]])
    assert reverse_complement(codes).tolist() == [[3, 4, 0, 1, 2, 3]]


def test_bfloat16_stays_near_float32():
    network, codes = random_network(), random_codes(4, 64)
    with torch.no_grad():
        exact = torch.stack(network(codes)).log_softmax(-1)
        coarse = torch.stack(network(codes, torch.bfloat16)).log_softmax(-1)
    assert coarse.dtype == torch.float32
    assert 0 < (exact - coarse).abs().mean() < 0.05


def test_a_new_network_predicts_every_base_alike():
    with torch.no_grad():
        forward, reverse = BidirectionalConvLM(CONFIG)(random_codes(1, 20))
    assert forward.abs().max() == reverse.abs().max() == 0


@pytest.mark.parametrize(("kernel", "dilations"), [(5, (1, 2, 4)), (3, (1, 3, 6)), (5, (1, 1, 2)), (2, (1, 4))])
def test_first_block_from_the_table_equals_the_computed_one(kernel, dilations):
    config = BidirectionalConfig(width=8, kernel=kernel, dilations=dilations, head=16)
    network = random_network(3, config)
    codes = torch.randint(0, 5, (3, 2 * config.reach + 1))
    with torch.inference_mode():
        computed = (*network.states(codes), *network.site_states(codes))
        network.tabulate(torch.float32)
        looked_up = (*network.states(codes), *network.site_states(codes))
    for before, after in zip(computed, looked_up, strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
