"""What a test notes of routing: frames, experts, voicing; experts removed."""

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.errors import InputError
from merit_modules.evaluation.expert_removal import (
    has_several_experts,
    without_expert,
)
from merit_modules.evaluation.routing_log import (
    SILENT,
    UNVOICED,
    VOICED,
    RoutingLog,
    frame_voicing,
    read_routing,
)
from merit_modules.tiny import tiny_system

RATE_HZ = 16000


@pytest.fixture
def system():
    torch.manual_seed(0)
    return tiny_system().eval()


def batch(seed=0):
    torch.manual_seed(seed)
    wavs = torch.randn(3, 12000)
    lens = torch.tensor([1.0, 0.5, 0.75])
    clean = [wav[: round(12000 * n.item())] for wav, n in zip(wavs, lens)]
    return wavs, lens, clean


def log_of(system, wavs, lens, clean, ids):
    with torch.no_grad():
        mixture = system(wavs, lens).mixture
    log = RoutingLog(RATE_HZ)
    log.add(ids, mixture, clean)
    return log, mixture


def test_what_is_saved_is_what_was_decided(system, tmp_path):
    wavs, lens, clean = batch()
    log, mixture = log_of(system, wavs, lens, clean, ["c", "a", "b"])
    log.save(tmp_path / "routing" / "clean.npz")
    found = read_routing(tmp_path / "routing" / "clean.npz")
    assert found.utt_ids.tolist() == ["a", "b", "c"]
    assert found.n_frames.tolist() == [
        mixture.valid[row].sum() for row in (1, 2, 0)
    ]
    for task in ("se", "ser"):
        for row, utt_id in enumerate("cab"):
            n = mixture.valid[row].sum()
            of_one = found.of(utt_id)
            assert (
                of_one.experts[task].tolist()
                == mixture.expert_map(task)[row, :n].tolist()
            )
            assert (
                of_one.probs[task].argmax(axis=1) == of_one.experts[task]
            ).all()
    assert found.of("nobody") is None


def test_batches_do_not_matter(system, tmp_path):
    wavs, lens, clean = batch()
    log_of(system, wavs, lens, clean, ["c", "a", "b"])[0].save(
        tmp_path / "together.npz"
    )
    log = RoutingLog(RATE_HZ)
    for utt_id, wav in zip("cab", clean):
        with torch.no_grad():
            log.add([utt_id], system(wav[None]).mixture, [wav])
    log.save(tmp_path / "alone.npz")
    one, two = (
        read_routing(tmp_path / f"{name}.npz") for name in ("together", "alone")
    )
    for left, right in zip(one[:3], two[:3]):
        assert (left == right).all()
    for task in ("se", "ser"):
        assert (one.experts[task] == two.experts[task]).all()


def test_broken_files_are_named(system, tmp_path):
    log_of(system, *batch(), ["c", "a", "b"])[0].save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as archive:
        arrays = dict(archive)
    arrays["expert_se"] = arrays["expert_se"][1:]
    np.savez(tmp_path / "short.npz", **arrays)
    with pytest.raises(InputError, match=r"short.npz: expert_se: expected \d+"):
        read_routing(tmp_path / "short.npz")
    del arrays["voicing"]
    np.savez(tmp_path / "less.npz", **arrays)
    with pytest.raises(InputError, match=r"less.npz: .*voicing"):
        read_routing(tmp_path / "less.npz")
    np.savez(tmp_path / "evil.npz", utt_ids=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="evil.npz: .*allow_pickle"):
        read_routing(tmp_path / "evil.npz")


# ---- voicing ----------------------------------------------------------------


def test_harmonics_noise_and_silence():
    time = torch.arange(RATE_HZ) / RATE_HZ
    torch.manual_seed(0)
    for pitch_hz in (90, 150, 300):
        voiced = sum(
            torch.sin(2 * torch.pi * pitch_hz * k * time) / k
            for k in range(1, 10)
        )
        wav = torch.cat([voiced, torch.randn(RATE_HZ), torch.zeros(RATE_HZ)])
        voicing = frame_voicing(wav, RATE_HZ, 149)
        middles = [voicing[start + 5 : start + 45] for start in (0, 50, 100)]
        assert (middles[0] == VOICED).all()
        assert (middles[1] == UNVOICED).float().mean() > 0.9
        assert (middles[2] == SILENT).all()


def test_voicing_of_real_speech(shared_data):
    shares = []
    for path in sorted((shared_data / "emodb" / "wav").glob("*.wav"))[:10]:
        wav = torch.tensor(soundfile.read(path, dtype="float32")[0])
        voicing = frame_voicing(wav, RATE_HZ, len(wav) // 320 - 1)
        shares.append((voicing == VOICED).float().mean().item())
    assert 0.25 < np.mean(shares) < 0.75


# ---- without an expert ------------------------------------------------------


def test_an_expert_is_gone_and_comes_back(system):
    wavs, lens, _ = batch()
    with torch.no_grad():
        before = system(wavs, lens)
        with without_expert(system, 1):
            without = system(wavs, lens)
        after = system(wavs, lens)
    assert torch.equal(before.logits, after.logits)
    for task, decision in without.mixture.routing.items():
        first = before.mixture.routing[task].expert_index
        assert (first == 1).any()
        assert not (decision.expert_index == 1).any()
        # Who did not need it keeps the expert that served him.
        kept = first != 1
        assert torch.equal(decision.expert_index[kept], first[kept])
    assert not torch.equal(before.logits, without.logits)


def test_all_others_share_the_weight_in_a_dense_mixture():
    torch.manual_seed(0)
    system = tiny_system().eval()
    for router in system.mixture.routers.values():
        router.top_k = router.n_experts
    with torch.no_grad(), without_expert(system, 0):
        decision = system(torch.randn(1, 8000)).mixture.routing["se"]
    weights = torch.zeros_like(decision.probs)
    weights.scatter_(1, decision.expert_index, decision.weights)
    assert (weights[:, 0] == 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))


def test_it_comes_back_after_an_error(system):
    wavs, lens, _ = batch()
    with torch.no_grad():
        before = system(wavs, lens).logits
        with pytest.raises(KeyError), without_expert(system, 0):
            raise KeyError
        assert torch.equal(system(wavs, lens).logits, before)


def test_what_cannot_be_removed(system):
    with pytest.raises(ValueError, match="expected 0 to"):
        without_expert(system, 9).__enter__()
    assert not has_several_experts(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="routers and several experts"):
        without_expert(torch.nn.Linear(1, 1), 0).__enter__()
