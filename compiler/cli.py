"""The command line: what users type, and nothing that takes long to import."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import click

from skipc.compiler.console import NORMAL, QUIET, VERBOSE, Console
from skipc.runtime.errors import InputError, InternalError, SkipcError

Command = Callable[..., Any]

EXIT_INTERRUPTED = 130

# The same as in `settings`, which takes long to import; a test compares them.
BYPASSES = ("auto", "identity", "affine", "low-rank", "linear", "narrow", "int8")
IMPACTS = ("ablation", "gradient", "activation")
GRANULARITIES = ("auto", "batch", "sample", "token")
PADDING = ("auto", "skip", "keep")
GATE_POLICIES = ("block", "ahead", "early", "merged", "auto")
GROUPINGS = ("none", "labels")
WEIGHTS = ("auto", "branch", "outer")
TARGETS = (
    *("cpu", "cuda", "openvino", "web"),
    *("qnn", "directml", "coreml", "nnapi", "webnn", "tensorrt", "tract"),
)


def output_options(command: Command) -> Command:
    """The options that every verb has."""
    command = click.option("-v", "--verbose", is_flag=True, help="Say more on stderr; show tracebacks of bugs.")(
        command
    )
    command = click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")(command)
    formats = click.Choice(["text", "json"])
    return click.option("--output-format", type=formats, default="text", help="What stdout gets.")(command)


model_argument = click.argument("model", type=click.Path(path_type=Path))
provider_option = click.option(
    "--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where the model will run."
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the deployed model."
)
batch_option = click.option(
    "--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Rows the model gets at a time."
)
group_option = click.option(
    "--group-by", type=click.Choice(GROUPINGS), default="none", show_default=True, help="Certify each class by itself."
)


class Program(click.Group):
    """The verbs; wrong usage is reported as every other error is, with code, hint and, where asked for, JSON."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Parse the arguments, run a verb and exit; takes what `click.Group.main` takes."""
        given = args[0] if args else options.get("args")
        words = list(sys.argv[1:] if given is None else given)
        try:
            sys.exit(super().main(*args, **{**options, "standalone_mode": False}))
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail(_usage_error(error), Console(), as_json=_wants_json(words))
        except (KeyboardInterrupt, click.Abort):
            _interrupted(as_json=_wants_json(words))
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # Whoever read our output has closed it, as `head` does; what Python still holds back fails once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


def _usage_error(error: click.ClickException) -> InputError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "skipc"
    what = " ".join(error.format_message().split()).rstrip(".")
    return InputError("usage", what[:1].lower() + what[1:], where=command, hint=f"`{command} --help` lists the options")


def _wants_json(words: Sequence[str]) -> bool:
    return "--output-format=json" in words or ("--output-format", "json") in pairwise(words)


@click.group("skipc", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="skipc")
def cli() -> None:
    """Compile trained ONNX networks so that they skip the blocks an input does not need."""


@cli.command("compile")
@model_argument
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Output file.  [default: MODEL with .skip.onnx]")
@click.option("--data", multiple=True, metavar="[NAME=]PATH", help="Sample inputs; several are certified one by one.")
@click.option("--loss", default="auto", show_default=True, help="What damage is; or module:function.")
@click.option("--output", help="Name of the output that is judged.  [default: the first]")
@click.option(
    "--risk", type=click.FloatRange(0, 1, True, True), default=0.01, show_default=True, help="Mean loss at most."
)
@click.option("--confidence", type=click.FloatRange(0, 1, True, True), default=0.95, show_default=True)
@click.option("--budget", default="", metavar="MS|X", help="Reach 5ms a batch, or 1.3x, at the least risk.")
@click.option("--granularity", type=click.Choice(GRANULARITIES), default="auto", show_default=True)
@click.option(
    "--gate-policy",
    type=click.Choice(GATE_POLICIES),
    help="What gates read; auto measures.  [default: merged; auto on CUDA]",
)
@click.option("--mask", default="auto", show_default=True, help="Input that tells padding; or none.")
@click.option("--padding", type=click.Choice(PADDING), default="auto", show_default=True, help="Leave it out, or not.")
@click.option("--bypass", type=click.Choice(BYPASSES), default="auto", show_default=True)
@click.option("--impact", type=click.Choice(IMPACTS), default="ablation", show_default=True)
@group_option
@provider_option
@batch_option
@threads_option
@click.option("--target", type=click.Choice(TARGETS), help="Warn if gates save nothing in this runtime.")
@click.option("--plan", type=click.Path(path_type=Path), help="Build from this plan; needs no data.")
@click.option("--decisions", is_flag=True, help="Append skipc.decisions and skipc.scores to the outputs.")
@click.option("--level-input", is_flag=True, help="Let callers override the level.")
@click.option("--weights", type=click.Choice(WEIGHTS), default="auto", show_default=True, help="Where weights go.")
@click.option(
    "--max-growth",
    type=click.FloatRange(0),
    default=0.2,
    show_default=True,
    help="Share of MODEL's size that bypasses may add.",
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Regions to leave alone, such as 'attention.*'.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=0, help="Measure in so many processes.  [default: threads]")
@click.option("--portrait/--no-portrait", default=True, help="Measure opponents, gates and prices for the report.")
@click.option("--dask", default="", metavar="ADDRESS", help="Measure on the workers of this Dask scheduler.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of measurements, to go on where work was interrupted.  [default: in the user's cache]",
)
@click.option("--no-cache", is_flag=True, envvar="SKIPC_NO_CACHE", help="Measure everything anew; keep nothing.")
@output_options
def compile_command(**options: Any) -> None:
    """Compile MODEL into a drop-in file that skips what an input does not need."""
    from skipc.compiler.verbs import compile_verb

    _run(compile_verb, options)


@cli.command("inspect")
@model_argument
@click.option("--data", metavar="[NAME=]PATH", help="Sample inputs to time the regions on.")
@output_options
def inspect_command(**options: Any) -> None:
    """List the regions of an original, or plan and certificate of a compiled file."""
    from skipc.compiler.verbs import inspect_verb

    _run(inspect_verb, options)


@cli.command("verify")
@click.argument("compiled", type=click.Path(path_type=Path))
@click.option("--original", type=click.Path(path_type=Path), help="The model that was compiled.")
@click.option("--data", metavar="[NAME=]PATH", help="Inputs that the model has not seen.")
@click.option("--log", type=click.Path(path_type=Path), help="Replay this decision log instead.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Requests to replay at most.")
@provider_option
@output_options
@click.pass_context
def verify_command(context: click.Context, /, *, log: Path | None, limit: int, **options: Any) -> None:
    """Check every promise of COMPILED on data, or that the requests of a log come out the same again."""
    if log is not None:
        from skipc.compiler.runtime_verbs import replay_verb

        wanted = {name: value for name, value in options.items() if name not in ("original", "data")}
        _run(replay_verb, {**wanted, "log": log, "limit": limit})
    for name in ("original", "data"):
        if options[name] is None:
            raise click.MissingParameter(ctx=context, param_type="option", param_hint=f"'--{name}'")
    from skipc.compiler.verbs import verify_verb

    _run(verify_verb, options)


@cli.command("retune")
@click.argument("compiled", type=click.Path(path_type=Path))
@click.option("--level", type=click.IntRange(0), help="Put this level in force; 0 never bypasses.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Output file.  [default: COMPILED itself]")
@click.option("--original", type=click.Path(path_type=Path), help="The model that was compiled.")
@click.option("--data", multiple=True, metavar="[NAME=]PATH", help="Inputs to certify anew on; the compiler saw none.")
@click.option("--risk", type=click.FloatRange(0, 1, True, True), help="Mean loss at most.  [default: as certified]")
@click.option("--confidence", type=click.FloatRange(0, 1, True, True), help="[default: as certified]")
@group_option
@provider_option
@output_options
def retune_command(**options: Any) -> None:
    """Change the level of COMPILED, or certify its levels on new data, without compiling again."""
    from skipc.compiler.retune_verb import retune_verb

    _run(retune_verb, options)


@cli.command("explain")
@click.argument("subject", metavar="LOG|MODEL", type=click.Path(path_type=Path))
@click.option("--data", metavar="[NAME=]PATH", help="Inputs of MODEL.")
@click.option("--sample", type=click.IntRange(0), default=0, show_default=True, help="Which of them, from 0.")
@click.option("--level", type=click.IntRange(0), help="At this level.  [default: the one in force]")
@output_options
def explain_command(**options: Any) -> None:
    """Sum up a decision LOG, or tell what MODEL's gates do with one input, and why."""
    from skipc.compiler.runtime_verbs import explain_verb

    _run(explain_verb, options)


@cli.command("run")
@model_argument
@click.option("--data", required=True, metavar="[NAME=]PATH", help="Inputs to run.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Output file.  [default: MODEL.outputs.npz]")
@click.option("--log", type=click.Path(path_type=Path), help="Append the decisions to this log.")
@click.option("--keep-inputs", is_flag=True, help="Log the inputs too, so that `skipc verify --log` can replay them.")
@click.option("--level", type=click.IntRange(0), help="At this level.  [default: the one in force]")
@batch_option
@threads_option
@provider_option
@output_options
def run_command(**options: Any) -> None:
    """Run MODEL, compiled or not, over data, and write its outputs as .npz."""
    from skipc.compiler.runtime_verbs import run_verb

    _run(run_verb, options)


@cli.command("report")
@click.argument("subject", metavar="COMPILED|PLAN", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Output file.  [default: beside it, .report.html]")
@output_options
def report_command(**options: Any) -> None:
    """Write a page about a compiled file or a plan."""
    from skipc.compiler.runtime_verbs import report_verb

    _run(report_verb, options)


@cli.command("bench")
@model_argument
@click.argument("compiled", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="[NAME=]PATH", help="Inputs to time both models on.")
@batch_option
@threads_option
@provider_option
@output_options
def bench_command(**options: Any) -> None:
    """Time MODEL and COMPILED in interleaved pairs."""
    from skipc.compiler.verbs import bench_verb

    _run(bench_verb, options)


compiled_argument = click.argument("compiled", type=click.Path(path_type=Path))


@cli.command("restore")
@compiled_argument
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Output file.  [default: COMPILED without .skip]")
@output_options
def restore_command(**options: Any) -> None:
    """Give the original back from COMPILED."""
    from skipc.compiler.undo_verbs import restore_verb

    _run(restore_verb, options)


@cli.command("diff")
@compiled_argument
@click.option("--original", type=click.Path(path_type=Path), help="Check that restoring gives this model.")
@output_options
def diff_command(**options: Any) -> None:
    """Say what was changed in COMPILED, region by region."""
    from skipc.compiler.undo_verbs import diff_verb

    _run(diff_verb, options)


@cli.command("view")
@compiled_argument
@click.option("--original", type=click.Path(path_type=Path), help="Show this file.  [default: what restoring gives]")
@click.option("--port", type=click.IntRange(0, 65534), default=0, help="The compiled one is at the port behind it.")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open both in the web browser.")
@output_options
def view_command(**options: Any) -> None:
    """Show the original and COMPILED in Netron, side by side."""
    from skipc.compiler.undo_verbs import view_verb

    _run(view_verb, options)


@cli.command("triton")
@model_argument
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the repository.")
@click.option("--name", help="Of the model in the repository.  [default: that of the file, dots as underscores]")
@provider_option
@output_options
def triton_command(**options: Any) -> None:
    """Write a model repository with MODEL for NVIDIA Triton's ONNX Runtime backend."""
    from skipc.compiler.runtime_verbs import triton_verb

    _run(triton_verb, options)


def _run(verb: Command, options: dict[str, Any]) -> NoReturn:
    """Run a verb; print its result, or its error, and exit with its code."""
    quiet, verbose = options.pop("quiet"), options.pop("verbose")
    console = Console(QUIET if quiet else VERBOSE if verbose else NORMAL)
    as_json = options.pop("output_format") == "json"
    try:
        result, text = verb(console, **options)
    except SkipcError as error:
        _fail(error, console, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        _interrupted(as_json=as_json)
    except Exception as error:
        hint = "this is a bug of skipc; run again with -v and report it with the traceback"
        bug = InternalError("internal", f"{type(error).__name__}: {error}", hint=hint)
        if verbose:
            traceback.print_exc()
        _fail(bug, console, as_json=as_json)
    click.echo(json.dumps({"schema": 1, **result}, sort_keys=True, allow_nan=False) if as_json else text)
    sys.exit(0 if result.get("ok", True) else 1)


def _fail(error: SkipcError, console: Console, *, as_json: bool) -> NoReturn:
    """Print an error and exit with its code."""
    if as_json:
        click.echo(json.dumps({"schema": 1, "ok": False, "error": error.as_json()}, sort_keys=True))
    console.error(error)
    sys.exit(error.exit_code)


def _interrupted(*, as_json: bool) -> NoReturn:
    error = SkipcError("interrupted", "interrupted; nothing was written")
    if as_json:
        click.echo(json.dumps({"schema": 1, "ok": False, "error": error.as_json()}, sort_keys=True))
    click.echo(error.what, err=True)
    sys.exit(EXIT_INTERRUPTED)


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="skipc")
