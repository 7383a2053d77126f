"""All built-in checks, by the names that contracts give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aprtui.contracts.checks import blocks, captures, chat, pairs, running, verdicts
from aprtui.contracts.checks.arguments import CaptureArguments, CheckArguments, PairArguments
from aprtui.contracts.checks.judgement import Judgement, passed_if
from aprtui.contracts.checks.running import BACKEND
from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.validation import Severity, validate


@dataclass(frozen=True, slots=True)
class ContractCheck:
    """Judges the contract alone."""

    judge: Callable[[Document], Judgement]
    parameters: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CaptureCheck:
    """Judges a capture. `stages` are the stages that it is about where the contract names none; all where empty.
    `plants` is the kind of fault that what it judges must have; empty where an injected fault makes it worthless.
    `of_program` says that it tests this program on the capture, so that nothing in a capture can fail it."""

    judge: Callable[[CaptureArguments], Judgement]
    parameters: frozenset[str] = frozenset()
    stages: tuple[str, ...] = ()
    plants: str = ""
    of_program: bool = False


@dataclass(frozen=True, slots=True)
class PairCheck:
    """Judges a capture against a reference. `stages` as of `CaptureCheck`."""

    judge: Callable[[PairArguments], Judgement]
    parameters: frozenset[str] = frozenset()
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """Runs a model and judges what it does."""

    judge: Callable[[CheckArguments], Judgement]
    parameters: frozenset[str] = frozenset()


Check = ContractCheck | CaptureCheck | PairCheck | ModelCheck


def _contract_valid(document: Document) -> Judgement:
    """The contract has no error by the rules of `validate`."""
    errors = [finding for finding in validate(document) if finding.severity is Severity.ERROR]
    reason = f"{errors[0].code} at line {errors[0].line}: {errors[0].message}" if errors else "no error"
    return passed_if(not errors, reason, "errors", len(errors), 0)


def _compared(judge: pairs.Judge, *parameters: str, stages: tuple[str, ...] = ()) -> PairCheck:
    return PairCheck(pairs.on_compared(judge), frozenset(parameters), stages)


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "contract_valid": ContractCheck(_contract_valid),
        "byte_format": CaptureCheck(captures.byte_format),
        "header_arithmetic": CaptureCheck(captures.header_arithmetic),
        "whole_model_file": CaptureCheck(captures.whole_model_file, stages=("lm_head",)),
        "nan_preservation": CaptureCheck(captures.nan_preservation, plants="nan"),
        "layer_subset": CaptureCheck(captures.layer_subset),
        "multi_stage": CaptureCheck(captures.multi_stage),
        "diff_identity": CaptureCheck(captures.diff_identity, of_program=True),
        "completion_parses": CaptureCheck(captures.completion_parses),
        "determinism": PairCheck(pairs.determinism),
        "count_parity": PairCheck(pairs.count_parity),
        "cosine_floor": _compared(pairs.cosine_floor, "at_least"),
        "rel_l2_ceiling": _compared(pairs.rel_l2_ceiling, "at_most", "positions", "decoded"),
        "divergence_localised": _compared(pairs.divergence_localised, "below"),
        "one_adjacent_pair": _compared(pairs.one_adjacent_pair, "at_least"),
        "one_origin": PairCheck(
            pairs.on_compared(pairs.one_origin, one_sided=True), frozenset({"at_least", "at_most"})
        ),
        "sigma_band": _compared(pairs.sigma_band, "low", "high"),
        "replay_holds": CaptureCheck(captures.replay_holds),
        "argmax_parity": _compared(pairs.argmax_parity, "cosine_at_least", stages=("lm_head",)),
        "throughput_floor": ModelCheck(running.throughput_floor, frozenset({BACKEND, "at_least", "tokens"})),
        "additive_capture": ModelCheck(running.additive_capture, frozenset({BACKEND})),
        "forced_backend": ModelCheck(running.forced_backend, frozenset({BACKEND})),
        "automatic_choice": ModelCheck(running.automatic_choice),
        "parity_with_cpu": ModelCheck(running.parity_with_cpu, frozenset({BACKEND})),
        "quality_gate": ModelCheck(running.quality_gate, frozenset({BACKEND, "gate"})),
        "qa_aggregate": ModelCheck(
            running.qa_aggregate, frozenset({BACKEND, "require", "min_executed", "tokens_per_second", "gates"})
        ),
        "chat_template_bytes": ModelCheck(
            chat.chat_template_bytes, frozenset({"messages", "expected", "family", "generation_prompt"})
        ),
        "detection_rate": ModelCheck(verdicts.detection_rate, frozenset({"signal", "at_least", "every"})),
        "false_alarms": ModelCheck(verdicts.false_alarms, frozenset({"signal"})),
        "block_values": ModelCheck(blocks.block_values, frozenset({"type", "block", "values"})),
        "block_decoding": ModelCheck(blocks.block_decoding, frozenset({"type"})),
        "chat_refusal": ModelCheck(chat.chat_refusal, frozenset({"prompt"})),
    }
)
"""Checks of captures take `stages`, `layers` and `backends` too."""
