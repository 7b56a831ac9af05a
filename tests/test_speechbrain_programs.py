"""What users of SpeechBrain write: our parts in Brains of their own."""

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.processing.features import STFT, spectral_magnitude
from torch.utils.data import DataLoader

from merit_modules.heads import SpectralMask
from merit_modules.ssl import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL
from merit_modules.training.augmentation import AlignedAugmenter
from tests.helpers.pages import blocks

RUN_OPTS = {"device": "cpu", "noprogressbar": True}
LENGTHS = torch.tensor([1.0, 0.7, 0.4])


@pytest.fixture
def wavlm(tmp_path):
    """A folder with a tiny WavLM, as the hub has large ones."""
    folder = tmp_path / "wavlm"
    torch.manual_seed(0)
    model = RandomSSLEncoder("wavlm", TINY_SSL).model
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"do_normalize": false, "feature_extractor_type": '
        '"Wav2Vec2FeatureExtractor", "sampling_rate": 16000}'
    )
    return folder


class EmotionBrain(sb.Brain):
    """Like SpeechBrain's for IEMOCAP: an SSL lobe, pooling, a classifier."""

    def compute_forward(self, batch, stage):
        wavs, lens = batch[0].to(self.device), batch[1]
        outputs = self.modules.wav2vec2(wavs, lens)
        outputs = self.hparams.avg_pool(outputs, lens)
        outputs = outputs.view(outputs.shape[0], -1)
        return self.hparams.log_softmax(self.modules.output_mlp(outputs))

    def compute_objectives(self, predictions, batch, stage):
        return self.hparams.compute_cost(predictions, batch[2])


def documented(source):
    """The page's YAML at the size of the smallest WavLM, with its recipe's."""
    (text,) = [
        b for b in blocks("docs/speechbrain.md", "yaml") if "wav2vec2" in b
    ]
    for old, new in (
        ("source: !PLACEHOLDER", f"source: {source}"),
        ("save_path: !PLACEHOLDER", f"save_path: {source}"),
        ("n_layers: 13", "n_layers: 3"),
        ("encoder_dim: 768", "encoder_dim: 16"),
        ("expert_dim: 256", "expert_dim: 8"),
        ("hidden_size: 1024", "hidden_size: 16"),
    ):
        assert old in text
        text = text.replace(old, new)
    return load_hyperpyyaml(text + THEIRS)


#: What stays as it is in the recipe.
THEIRS = """
log_softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True
opt_class: !name:torch.optim.Adam
    lr: 0.01
"""


def test_the_mixture_in_a_recipe_by_yaml_alone(wavlm):
    torch.manual_seed(0)
    hparams = documented(wavlm)
    brain = EmotionBrain(
        hparams["modules"], hparams["opt_class"], hparams, RUN_OPTS
    )
    wavs, labels = torch.randn(3, 8000), torch.tensor([0, 1, 2])
    batches = [(wavs, LENGTHS, labels)] * 3
    before = {k: v.clone() for k, v in hparams["mixture"].named_parameters()}
    start = brain.evaluate_batch(batches[0], sb.Stage.VALID)
    brain.fit(range(3), DataLoader(batches, batch_size=None))
    brain.modules.eval()
    assert brain.evaluate_batch(batches[0], sb.Stage.VALID) < start
    for name, parameter in hparams["mixture"].named_parameters():
        assert not torch.equal(parameter, before[name]), name
    # What an utterance gives does not depend on the batch it is in.
    layers = hparams["wav2vec2"](wavs, LENGTHS)
    n_frames = (LENGTHS * layers.shape[2]).round().long()
    with torch.no_grad():
        batch = hparams["avg_pool"](layers, LENGTHS)
        alone = hparams["avg_pool"](layers[:, 2:, : n_frames[2]], torch.ones(1))
    torch.testing.assert_close(batch[2:], alone, atol=1e-5, rtol=0)


class EnhancementBrain(sb.Brain):
    """Like SpeechBrain's template: its STFT, a mask, the cost of it."""

    def log1p(self, wavs):
        stft = self.hparams.compute_stft(wavs)
        return torch.log1p(spectral_magnitude(stft, power=0.5))

    def compute_forward(self, batch, stage):
        noisy, _, lens = batch
        features = self.modules.ssl(noisy, lens)[-1]
        spectrum = self.log1p(noisy)
        return self.modules.mask(spectrum, features, lens) * spectrum

    def compute_objectives(self, predictions, batch, stage):
        _, clean, lens = batch
        target = self.log1p(clean)
        return sb.nnet.losses.l1_loss(predictions, target, length=lens)


def test_the_se_head_in_an_enhancement_brain():
    torch.manual_seed(0)
    modules = {
        "ssl": RandomSSLEncoder("wavlm", TINY_SSL),
        "mask": SpectralMask(201, TINY_SSL["hidden_size"], 16),
    }
    stft = STFT(sample_rate=16000, win_length=25, hop_length=10, n_fft=400)
    brain = EnhancementBrain(
        modules,
        lambda parameters: torch.optim.Adam(parameters, 1e-2),
        {"compute_stft": stft},
        RUN_OPTS,
    )
    clean = torch.randn(3, 8000)
    batch = (clean + 0.5 * torch.randn(3, 8000), clean, LENGTHS)
    start = brain.evaluate_batch(batch, sb.Stage.VALID)
    brain.fit(range(4), DataLoader([batch] * 2, batch_size=None))
    assert brain.evaluate_batch(batch, sb.Stage.VALID) < start


def test_without_an_adapter_frame_counts_are_not_taken_for_lengths(wavlm):
    hparams = documented(wavlm)
    with pytest.raises(TypeError, match="relative lengths"):
        hparams["mixture"](torch.randn(3, 2, 9, 16), torch.tensor([9, 5]))


def test_the_page_s_augmentation_and_stopper_are_built():
    (text,) = [
        b for b in blocks("docs/speechbrain.md", "yaml") if "wav_augment" in b
    ]
    hparams = load_hyperpyyaml("number_of_epochs: 3\n" + text)
    AlignedAugmenter(hparams["wav_augment"])
    assert hparams["epoch_counter"].limit_to_stop == 5
