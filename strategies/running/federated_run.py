"""One run from its first (or next) round to its summary: rounds, records, checkpoints, evaluation."""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from corolla.config.build import (
    build_cap,
    build_space,
    build_strategy,
    build_tracker,
    build_trainer_settings,
    header_of,
)
from corolla.config.schema import RunConfig
from corolla.errors import Fault, RefusedError, RunFailedError
from corolla.federation import Federation
from corolla.launch.source_run import source_state
from corolla.limits.client_limits import ClientLimits, limits_of
from corolla.limits.learning import learn_limits
from corolla.records.client_facts import read_client_facts
from corolla.records.phases import phase
from corolla.records.prometheus import write_prometheus
from corolla.tasks import Reply
from corolla.trackers import Start
from corolla.types import ClientId
from strategies.base import CorollaStrategy
from strategies.evaluation import Evaluator
from strategies.final_choice import ChoosesFinally, choose_finally
from strategies.roster import leave_out_short
from strategies.running.checkpoint_writer import CheckpointWriter
from strategies.running.opening import open_run, roster_of
from strategies.running.pooled import pooled_scores
from strategies.running.progress import Progress, load_method
from strategies.running.records import FirstReplies, client_row, round_metrics
from strategies.running.scores import global_scores, scores_of, without_clients
from strategies.running.summary import save_model, summarise
from strategies.waiting import gather

_LOG = logging.getLogger("corolla")


class FederatedRun:
    """Owns the run directory while it runs; everything it must remember is in the checkpoint."""

    def __init__(self, *, config: RunConfig, launch: str) -> None:
        if config.run_dir is None:
            raise RefusedError(
                Fault("run_dir", None, "is not set", "Start the run with `corolla run`")
            )
        self._config = config
        self._directory = open_run(Path(config.run_dir), launch)
        self._space = build_space(config)
        self._facts = read_client_facts(self._directory.path)
        self._roster = roster_of(config, self._facts)
        self._progress = Progress()
        self._header = header_of(config, self._space)
        self._writer = CheckpointWriter(self._directory.checkpoints, self._header)
        self._first_replies = FirstReplies()
        self._failed = 0  # exchanges, since this process started

    def run(self, grid: Grid) -> None:
        """Carry out all rounds that are still to do, then evaluate, summarise, save the models."""
        with self._directory.lock(), self._directory.logging():
            strategy = self._strategy(grid)
            done = self._resume(strategy)
            with self._mirror(done), self._tracking(done), self._writer:
                for server_round in range(done + 1, self._config.rounds + 1):
                    if done and strategy.finished(self._roster.clients()):
                        break
                    self._round(strategy, grid, server_round)
                    done = server_round
                self._finish(strategy, grid)

    # --- before -----------------------------------------------------------------------------------------

    def _strategy(self, grid: Grid) -> CorollaStrategy:
        nodes = self._roster.nodes(grid)
        config = self._config
        for client in nodes:
            self._facts.setdefault(client, {}).update(self._roster.facts(client))
        known = self._facts.items()
        sizes = {c: int(f["num_examples"]["train"]) for c, f in known if "num_examples" in f}
        limits = self._node_limits(sizes) if config.on_nodes else limits_of(self._facts)
        federation = Federation.of(
            config,
            space=self._space,
            trainer=build_trainer_settings(config),
            budgets=limits.budgets,
            caps=limits.caps,
            examples=sizes,
        )
        strategy: CorollaStrategy = build_strategy(config, federation=federation)
        strategy.roster = self._roster
        strategy.spill_to = self._directory.path
        strategy.summary()
        return strategy

    def _node_limits(self, sizes: Mapping[ClientId, int]) -> ClientLimits:
        """Return the connected nodes' limits, with the caps that the configuration gives them.

        Raises:
            RefusedError: a node with less than the smallest architecture needs; in a run that goes on,
                where it may have joined meanwhile, it is left out as long as there are others.

        """
        learned = learn_limits(
            self._facts,
            rule=build_cap(self._config),
            space=self._space,
            sizes=sizes,
            batch_size=self._config.batch_size,
        )
        self._facts, short = learned.facts, learned.shortfalls
        goes_on = self._directory.has_checkpoint()
        if goes_on and len({one.client for one in short}) < len(self._facts):
            leave_out_short(self._roster, short)
        else:
            learned.require_room()
        return learned.limits

    def _resume(self, strategy: CorollaStrategy) -> int:
        """Load the latest checkpoint that is whole, if any, and return how many rounds are done."""
        checkpoint = self._directory.checkpoints.load_to_resume(self._header)
        if checkpoint is None:
            self._directory.truncate_after(0)
            if self._config.stage == "new_clients":
                strategy.begin_from(source_state(self._config, self._space))
            return 0
        done, state = checkpoint
        load_method(strategy, state)
        self._progress = Progress.from_meta(state.meta)
        self._directory.truncate_after(done)
        _LOG.info("resuming after round %d of %d", done, self._config.rounds)
        return done

    def _mirror(self, done: int) -> AbstractContextManager[object]:
        """Mirror the rounds' metrics to TensorBoard, where that is wanted."""
        if not self._config.tensorboard:
            return nullcontext()
        return self._directory.tensorboard(resumed_after=done)

    def _tracking(self, done: int) -> AbstractContextManager[object]:
        """Tell the run's tracker of its rounds, where it has one."""
        try:
            tracker = build_tracker(self._config)
        except RefusedError as error:  # not installed on this machine, which is not the launcher's
            _LOG.warning("the run goes on without its tracker: %s", error)
            tracker = None
        if tracker is None:
            return nullcontext()
        config = self._config.model_dump(mode="json", by_alias=True)
        start = Start(run_dir=self._directory.path, config=config, resumed_after=done)
        return self._directory.tracked(tracker, start)

    # --- a round ----------------------------------------------------------------------------------------

    def _round(self, strategy: CorollaStrategy, grid: Grid, server_round: int) -> None:
        start = time.perf_counter()
        messages = strategy.configure_train(server_round, ArrayRecord(), ConfigRecord(), grid)
        asked = operator.length_hint(messages) or None
        with phase(f"round {server_round}", asked, run_dir=self._directory.path):
            replies = gather(
                grid,
                messages,
                timeout_s=self._config.round_timeout_s,
                real_nodes=self._config.on_nodes,
            )
            self._writer.wait()  # what it writes may change now
            strategy.aggregate_train(server_round, replies)
        report = strategy.report
        if report is None:
            raise RunFailedError(f"{type(strategy).__name__} left no report of the round")
        elapsed = time.perf_counter() - start
        metrics = round_metrics(server_round, report, elapsed, self._roster.unusable())
        rows = [
            client_row(
                server_round, reply, report, space=self._space, batch_size=self._config.batch_size
            )
            for reply in report.replies
        ]
        totals = self._progress.totals
        totals.add(report.replies, elapsed)
        if not (totals.bytes_up or totals.samples_processed):  # not a reply in any round
            self._first_replies.check(report, len(self._roster.clients()))
        chosen = False
        every = self._config.evaluation.every
        # Where not everybody is asked at the end, the last round is no rival of those that all scored.
        last = server_round == self._config.rounds and self._config.evaluation.final == "all"
        if (every and server_round % every == 0) or last:
            metrics["evaluation"], chosen = self._evaluate(strategy, grid, server_round)
        # Checkpoint last: a crash before it is whole repeats the round; the lines below are cut off first.
        self._directory.append_clients(rows)
        self._directory.append_round(metrics)
        self._export(metrics)
        self._checkpoint(strategy, server_round, best=chosen)

    def _export(self, metrics: Mapping[str, Any], *, finished: bool = False) -> None:
        """Write the last round's figures for Prometheus, where that is wanted."""
        if self._config.prometheus is None:
            return
        self._failed += 0 if finished else metrics["failures"]
        try:
            write_prometheus(
                Path(self._config.prometheus),
                run=self._directory.path.name,
                rounds=self._config.rounds,
                line=metrics,
                failed=self._failed,
                finished=finished,
            )
        except OSError as error:  # somebody else's folder must not end a run
            _LOG.warning("prometheus=%s: cannot be written: %s", self._config.prometheus, error)

    def _evaluate(
        self, strategy: CorollaStrategy, grid: Grid, server_round: int
    ) -> tuple[dict[str, Any], bool]:
        """Evaluate all connected clients; return the record, and whether it is the best so far."""
        start = time.perf_counter()
        replies, failures = self._evaluator(strategy, grid).evaluate(server_round)
        self._progress.totals.evaluation_s += time.perf_counter() - start
        for failure in failures:
            _LOG.warning("evaluation of client %s failed: %s", failure.client, failure.reason)
        if not replies:
            return {}, False
        scores = scores_of(replies, "")
        record = {"personalised": without_clients(scores), "clients": len(replies)}
        shared = global_scores(strategy, replies, scores)
        if shared:
            record["global"] = without_clients(shared)
        if not strategy.deploys(server_round):
            return record, False
        value = scores["val_accuracy"]["mean"]
        # Trained on, validation images choose nothing any more: the latest round stands.
        chooses = not any(reply.metrics.get("validation_in_training") for reply in replies)
        chooses = chooses and not self._config.train_on_validation
        best = self._progress.best
        if chooses and best is not None and value <= best["val_accuracy"]["mean"]:
            return record, False
        self._progress.best = {"round": server_round, "chosen": chooses, **scores}
        return record, True

    def _checkpoint(self, strategy: CorollaStrategy, server_round: int, *, best: bool) -> None:
        if not self._config.on_nodes and strategy.report is not None:
            clients = [reply.client for reply in strategy.report.replies]
            self._progress.note_states(self._directory, clients, server_round)
        self._writer.save(self._progress.checkpoint(strategy), round=server_round, best=best)

    def _checkpoint_anew(self, strategy: CorollaStrategy) -> None:
        """Write the last round's checkpoint once more; no training is left to write it beside."""
        self._checkpoint(strategy, self._config.rounds, best=False)
        self._writer.wait()

    # --- after ------------------------------------------------------------------------------------------

    def _finish(self, strategy: CorollaStrategy, grid: Grid) -> None:
        config = self._config
        evaluator = self._evaluator(strategy, grid)
        self._writer.wait()
        if strategy.conclude():
            self._checkpoint_anew(strategy)  # it is not done twice
        clients = evaluator.finally_asked()
        if isinstance(strategy, ChoosesFinally) and choose_finally(
            strategy, evaluator, clients, config.rounds
        ):
            self._checkpoint_anew(strategy)  # it is not made twice
        replies, failures = evaluator.deploy(config.rounds)
        if clients and not replies:
            reasons = "; ".join(f"{f.client}: {f.reason}" for f in failures[:5])
            raise RunFailedError(f"no client could evaluate its final model: {reasons}")
        best = self._progress.best
        if config.evaluation.deploy == "fine_tuned" and best is not None:
            best = self._best_fine_tuned(strategy, evaluator, replies, best)
        summary = summarise(
            config,
            strategy,
            replies,
            failures,
            best=best,
            totals=self._progress.totals,
            facts=self._facts,
            known=len(self._roster.clients()),
        )
        pooled = pooled_scores(strategy, evaluator, self._facts, config.rounds) if clients else {}
        if pooled:
            summary["pooled"] = pooled
        for reply in replies:
            save_model(self._directory, strategy, reply)
        self._directory.write_summary(summary)
        if config.prometheus is not None:
            self._export(self._directory.metrics()[-1], finished=True)
        scored = f", test accuracy {summary['test_accuracy']['mean']:.4f}" if replies else ""
        _LOG.info("done: %d of %d clients scored%s", len(replies), summary["known_clients"], scored)

    def _best_fine_tuned(
        self,
        strategy: CorollaStrategy,
        evaluator: Evaluator,
        replies: list[Reply],
        best: dict[str, Any],
    ) -> dict[str, Any]:
        """Return the scores after fine-tuning from the round that was chosen on validation."""
        if best["round"] != self._config.rounds:
            last = strategy.state()
            _, state = self._directory.checkpoints.load("best", expected=self._header)
            load_method(strategy, state)
            replies, _ = evaluator.deploy(best["round"], keep_models=False)
            strategy.load_state(last)
        return {**best, **scores_of(replies, "fine_tuned_")} if replies else best

    def _evaluator(self, strategy: CorollaStrategy, grid: Grid) -> Evaluator:
        return Evaluator(config=self._config, strategy=strategy, roster=self._roster, grid=grid)
