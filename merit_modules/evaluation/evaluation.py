"""Test conditions: run them, score them, write what was found."""

import contextlib
import time
from pathlib import Path

from speechbrain.utils.data_utils import batch_pad_right
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from merit_modules.data.escaping import terminal
from merit_modules.data.mixing import write_recipes
from merit_modules.data.state import (
    DamagedError,
    digest_of,
    read_state,
    write_state,
)
from merit_modules.errors import InputError
from merit_modules.evaluation.conditions import ConditionScores
from merit_modules.evaluation.cost import measure
from merit_modules.evaluation.expert_removal import (
    has_several_experts,
    without_expert,
)
from merit_modules.evaluation.metrics.scoring import SIDES, EnhancementScorer
from merit_modules.evaluation.metrics.table import results_table
from merit_modules.evaluation.run_folder import (
    RESULTS,
    SCAN,
    SCORES,
    check_rows,
    read_results,
    read_table,
    rows_digest,
    table_as_csv,
)
from merit_modules.files import write_atomically
from merit_modules.pretrained.weights import fingerprint, versions

logger = get_logger(__name__)


class Evaluation:
    """Evaluates a trained system, condition by condition, and can go on.

    What was evaluated before with the same weights and mixtures is kept, also
    conditions that are in the grid no more and metrics that are asked for no
    more. Of several processes each takes its share. The first one writes,
    after each condition, ``results.json``, ``results.md`` and ``scores.csv``;
    per condition a CSV of the mixtures, the routing decisions and a folder of
    examples.

    Arguments
    ---------
    brain : JointBrain
        The trained brain.
    scorer : EnhancementScorer
        Scores enhancement beside the model.
    output_folder : str or Path
        The run's folder.
    about : dict
        What the run was (corpus, system, seed); goes into the results.
    loader_kwargs : callable
        Dataset to the arguments of its loader.
    settings : dict
        What else the scores depend on, as plain values.
    """

    def __init__(
        self, brain, scorer, output_folder, about, loader_kwargs, settings
    ):
        self.brain = brain
        self.scorer = scorer
        self.folder = Path(output_folder)
        self.loader_kwargs = loader_kwargs
        validation = brain.load_best()
        brain.target.temperature = validation.get("temperature", 1.0)
        self.settings = {
            **settings,
            "validation": validation,
            "weights": fingerprint(brain.system),
        }
        self.settings_key = digest_of(self.settings)
        self.results = {
            **about,
            "validation": validation,
            "weights": self.settings["weights"],
            "n_parameters": sum(p.numel() for p in brain.system.parameters()),
            "versions": versions(),
            "conditions": [],
        }
        self.rows = {}
        self._to_extend = {}

    def run(self, conditions, chosen=None, n_examples=0):
        """Evaluate what is not evaluated yet.

        Arguments
        ---------
        conditions : list of TestCondition
            All conditions of the run.
        chosen : sequence of str, optional
            Names of those to evaluate now; all by default.
        n_examples : int
            Utterances per condition to write as WAV files.

        Returns
        -------
        dict
            The content of ``results.json``, on the first process.

        Raises
        ------
        InputError
            If a chosen condition is not among the conditions.
        """
        names = [condition.name for condition in conditions]
        chosen = names if chosen is None else list(chosen)
        for name in chosen:
            if name not in names:
                raise InputError(
                    f"conditions: expected some of {', '.join(names)}, "
                    f"got {name!r}"
                )
        keys = {c.name: self._key(c) for c in conditions}
        finished, to_extend = run_on_main(self._take_over, args=[keys])
        for condition in conditions:
            name = condition.name
            if name in chosen and (name not in finished or name in to_extend):
                entry = self._evaluate(condition, n_examples)
                if entry is None:
                    continue
                finished[name] = {
                    **entry,
                    "key": keys[name],
                    "settings_key": self.settings_key,
                }
                self._extend(finished[name])
                finished[name]["rows_digest"] = rows_digest(self.rows[name])
                self._list(finished, names)
                self._write()
        return self.results

    def _list(self, finished, names):
        """In the order of the grid, then what is not in it."""
        order = [*names, *(name for name in finished if name not in names)]
        self.results["conditions"] = [
            finished[name] for name in order if name in finished
        ]

    def _key(self, condition):
        asked = [
            condition.noise_set,
            condition.snr_db,
            _by_name(condition.noise),
            _by_name(condition.dataset.data),
            self.settings,
        ]
        return digest_of(asked)

    def _take_over(self, keys):
        """Keep what an earlier start evaluated under the same conditions.

        Returns that by name, and the names that further metrics are asked of.
        """
        if not (self.folder / RESULTS).is_file():
            return {}, []
        try:
            earlier = read_results(self.folder)
            _, table = read_table(self.folder / SCORES)
        except InputError as error:
            logger.warning(f"{error}; all is tested again")
            return {}, []
        kept = {}
        for entry in earlier["conditions"]:
            name = entry["name"]
            if entry.get("settings_key") != self.settings_key:
                continue
            if keys.get(name, entry["key"]) != entry["key"]:
                continue
            rows = [row for row in table if row["condition"] == name]
            try:
                check_rows(self.folder / SCORES, entry, rows)
            except DamagedError as error:
                logger.warning(str(error))
                continue
            kept[name], self.rows[name] = entry, rows
        if not kept:
            return {}, []
        for name, entry in kept.items():
            missing = set(self.scorer.metrics) - set(_metrics_of(entry))
            if name in keys and "se" in entry and missing:
                self._to_extend[name] = entry, self.rows[name]
        self._list(kept, list(keys))
        for extra in ("cost", "expert_removal"):
            if extra in earlier:
                self.results[extra] = earlier[extra]
        finished = [name for name in kept if name not in self._to_extend]
        logger.info(f"Evaluated before: {', '.join(finished) or 'nothing'}")
        return kept, list(self._to_extend)

    def _extend(self, entry):
        """Add what an earlier evaluation found by other metrics."""
        if entry["name"] not in self._to_extend:
            return
        earlier, rows = self._to_extend.pop(entry["name"])
        others = set(_metrics_of(earlier)) - set(self.scorer.metrics)
        for side, values in entry["se"].items():
            if isinstance(values, dict):
                before = earlier["se"][side]
                values |= {m: before[m] for m in before if m in others}
        entry["failures"] += [
            f for f in earlier["failures"] if f["metric"] in others
        ]
        before = {row["utt_id"]: row for row in rows}
        for row in self.rows[entry["name"]]:
            for side in SIDES:
                names = [f"{side}_{metric}" for metric in others]
                row |= {n: before[row["utt_id"]].get(n) for n in names}

    def _evaluate(self, condition, n_examples):
        start = time.monotonic()
        scores = self._pass(
            condition,
            f"Testing: {condition.name}",
            folder=self.folder / "examples" / condition.name,
            n_examples=n_examples,
            routing=True,
        )
        found = scores.finish(self.brain.target)
        if found is None:
            return None
        entry = {
            "name": condition.name,
            "test_set": condition.test_set,
            "noise": condition.noise_set,
            "snr_db": condition.snr_db,
            **found,
            "routing": {
                name: value
                for name, value in self.brain.tracker.means().items()
                if "load_" in name or "entropy" in name or "same" in name
            },
            "seconds": round(time.monotonic() - start, 1),
        }
        self.rows[condition.name] = scores.table()
        write_recipes(
            self.folder / "mixtures" / f"{condition.name}.csv",
            scores.recipes,
            condition.noise,
        )
        if entry["routing"]:
            scores.routing.save(
                self.folder / "routing" / f"{condition.name}.npz"
            )
        return entry

    def _pass(self, condition, message, **options):
        logger.info(message)
        scores = ConditionScores(condition, self.scorer, **options)
        self.brain.condition = scores
        self.brain.evaluate(
            condition.dataset,
            test_loader_kwargs=self.loader_kwargs(condition.dataset),
        )
        return scores

    def remove_experts(self, conditions):
        """Score the system without each of its experts in turn.

        Arguments
        ---------
        conditions : list of TestCondition
            Under which conditions.

        Returns
        -------
        list of dict
            ``condition``, ``expert`` (None: all are there) and, of what the
            system does, ``f1_macro`` and ``si_sdr_db``; also in
            ``results.json`` as ``expert_removal``. Empty on processes but the
            first.
        """
        n_experts = len(self.brain.system.mixture.experts)
        found = []
        for condition in conditions:
            for expert in (None, *range(n_experts)):
                without = (
                    contextlib.nullcontext()
                    if expert is None
                    else without_expert(self.brain.system, expert)
                )
                with without:
                    scores = self._pass(
                        condition,
                        f"{condition.name}: without expert {expert}",
                    ).finish(self.brain.target)
                if scores is None:
                    continue
                si_sdr = scores.get("se", {}).get("enhanced", {})
                found.append(
                    {
                        "condition": condition.name,
                        "expert": expert,
                        "f1_macro": scores.get("ser", {}).get("f1_macro"),
                        "si_sdr_db": si_sdr.get("si_sdr_db", {}).get("mean"),
                    }
                )
        if found:
            self.results["expert_removal"] = found
            self._write()
        return found

    def beyond_scores(self, conditions, removal_conditions, cost_duration_s):
        """Measure the cost, once, and take experts away where asked for.

        Arguments
        ---------
        conditions : list of TestCondition
            All conditions of the run.
        removal_conditions : list of str
            Names of those where each expert is taken away in turn.
        cost_duration_s : float
            Audio that cost is measured on, in seconds; 0: it is not measured.

        Raises
        ------
        InputError
            If one of these is not among the conditions.
        """
        chosen = [c for c in conditions if c.name in removal_conditions]
        if len(chosen) < len(removal_conditions):
            raise InputError(
                "removal_conditions: expected some of "
                f"{', '.join(c.name for c in conditions)}, got "
                f"{removal_conditions}"
            )

        def measure_once():
            if "cost" not in self.results and conditions and cost_duration_s:
                self.measure_cost(conditions[0].dataset, cost_duration_s)
            return self.results.get("expert_removal", [])

        removed = run_on_main(measure_once)
        done = {entry["condition"] for entry in removed}
        if set(removal_conditions) - done and has_several_experts(
            self.brain.system
        ):
            self.remove_experts(chosen)

    def measure_cost(self, dataset, max_duration_s):
        """Note what the system costs; see ``cost.measure``.

        Arguments
        ---------
        dataset : DynamicItemDataset
            Where the audio comes from.
        max_duration_s : float
            Audio to measure on, in seconds.
        """
        wavs, seconds = [], 0.0
        for utt_id in sorted(dataset.data_ids):
            if seconds >= max_duration_s:
                break
            wavs.append(dataset[dataset.data_ids.index(utt_id)]["noisy_wav"])
            seconds += len(wavs[-1]) / self.scorer.sample_rate_hz
        batch = batch_pad_right(wavs)
        device = self.brain.device
        self.results["cost"] = measure(
            self.brain.system.eval(),
            batch[0].to(device),
            batch[1].to(device),
            seconds,
        )
        self._write()

    def _write(self):
        metrics = dict.fromkeys(self.scorer.metrics)
        for entry in self.results["conditions"]:
            metrics |= dict.fromkeys(_metrics_of(entry))
        measured = [f"{side}_{m}" for side in SIDES for m in metrics]
        rows = [row for name in self._names() for row in self.rows[name]]
        write_atomically(
            self.folder / SCORES,
            table_as_csv(rows, [*self.brain.target.columns, *measured]),
        )
        # After the scores: what it lists is there.
        write_state(self.folder / RESULTS, self.results)
        write_atomically(
            self.folder / "results.md",
            results_table(self.results, markdown=True),
        )

    def _names(self):
        return [entry["name"] for entry in self.results["conditions"]]


def evaluate_conditions(
    brain,
    conditions,
    output_folder,
    about,
    settings,
    loader_kwargs,
    metrics,
    num_metric_workers=0,
    dnsmos_model=None,
    chosen=None,
    n_examples=0,
    removal_conditions=(),
    cost_duration_s=24.0,
):
    """Test the best checkpoint of a run, each process its share.

    What an earlier start tested is kept, see :class:`Evaluation`.

    Arguments
    ---------
    brain : JointBrain
        The trained brain.
    conditions : list of TestCondition
        All conditions of the run.
    output_folder : str or Path
        The run's folder.
    about : dict
        What the run was (corpus, system, seed); goes into the results.
    settings : dict
        What else the scores depend on, ``sample_rate_hz`` among it.
    loader_kwargs : callable
        Dataset to the arguments of its loader.
    metrics : list of str
        Metrics of enhancement.
    num_metric_workers : int
        Processes that score, beside each process that tests.
    dnsmos_model : str or Path, optional
        ``sig_bak_ovr.onnx``, where a metric needs it.
    chosen : list of str, optional
        Names of the conditions to test now; all by default.
    n_examples : int
        Utterances per condition to write as WAV files.
    removal_conditions : list of str
        Where each expert is taken away in turn.
    cost_duration_s : float
        Audio that cost is measured on, in seconds; 0: it is not measured.

    Returns
    -------
    dict or None
        The content of ``results.json``; None on processes but the first.
    """
    if brain.debug:  # of a few batches: nobody is to take them for scores
        output_folder, cost_duration_s = Path(output_folder) / "debug", 0
    with EnhancementScorer(
        settings["sample_rate_hz"],
        num_metric_workers,
        metrics,
        dnsmos_model=dnsmos_model,
    ) as scorer:
        about = {**about, **_doubts_of(brain)}
        evaluation = Evaluation(
            brain, scorer, output_folder, about, loader_kwargs, settings
        )
        results = evaluation.run(conditions, chosen, n_examples)
        evaluation.beyond_scores(
            conditions, removal_conditions, cost_duration_s
        )
    if not if_main_process():
        return None
    print(terminal(results_table(results), keep="\n"))
    print(f"\nAll results: {output_folder}/results.json")
    return results


def _doubts_of(brain):
    """Take over what looked wrong when all audio was read, by split."""
    path = Path(brain.checkpointer.checkpoints_dir) / SCAN
    try:
        found = read_state(path)["warnings"]
    except (OSError, InputError, KeyError, TypeError):
        return {}
    return {"warnings": found} if found else {}


def _metrics_of(entry):
    """List the enhancement metrics of a condition's results."""
    return list(entry.get("se", {}).get("enhanced", {}))


def _by_name(manifest):
    """Leave out of a manifest where its audio lies."""
    return manifest and {
        item: {**entry, "wav": Path(entry["wav"]).name}
        for item, entry in manifest.items()
    }
