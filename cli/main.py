"""Parse the command line, run the command, and turn errors into one line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from fxprune import __version__
from fxprune.errors import FxpruneError, OptionError, first_line, is_out_of_memory, kind_and_line

from .completion import SHELLS, completion
from .process import process_number
from .reply import Reply, as_json, terminal_columns

# Each is a file of `commands/`, imported when it is asked for, and begins with its line here.
COMMANDS = {
    "compress": "compress a network from end to end: train, C-SGD, merge, verify, export",
    "fold": "fold a trained network without labels and without training: merge, repair, verify, export",
    "inspect": "show whether a network can be pruned, what is coupled, and what is frozen and why",
    "plan": "show what would go before any training, and write it as a plan to edit",
    "latency": "time a network and narrow copies of it, as a table to carry to another machine",
    "prove": "prove on random weights that a network can be narrowed without a loss",
    "verify": "check a saved network: its files, its stored answer, the wide network and the ONNX file",
    "export": "export the narrow network of a folder to ONNX, Python, torch.export, OpenVINO or timm",
    "push": "push the narrow network in a folder of results to the hub, with a model card",
    "bench": "time the narrow and the wide network of a folder of results, in PyTorch and onnxruntime",
    "report": "print the table of a folder of results once more, and write its report anew",
    "checks": "check this installation: versions, devices, extras and what they lack, the cache",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; exit codes: 0 done, 1 a check failed, 2 unusable input, 130 interrupted.

    Args:
        argv: arguments; None: those of the process.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    wants_json = False
    # Waiting threads must sleep: spinning ones make a step ten times as long if others also use the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    try:
        args = _parser(arguments[:1]).parse_args(arguments)
        _unwind_on_sigterm()
        from fxprune.common.progress import listening

        wants_json = args.json
        shown = getattr(args, "progress", None) is not False and not process_number()
        aside = contextlib.redirect_stdout(sys.stderr) if wants_json else contextlib.nullcontext()
        with aside, _plain_warnings(), listening(shown):
            reply: Reply = args.run(args)
        if not process_number():  # every process has the reply
            print(as_json(args.command, reply.value(), reply.code) if wants_json else reply.text)
        sys.stdout.flush()
    except BrokenPipeError:
        return _unread()
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            import traceback

            traceback.print_exc()
        message, code = _explain(error)
        try:
            if wants_json:
                _say_as_json(args.command, type(error), message, code)
                sys.stdout.flush()
        except BrokenPipeError:
            return _unread()
        return _fail(message, code)
    return reply.code


def _unread() -> int:
    """Go on without output: its reader has ended, as in ``fxprune inspect ... | head``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _explain(error: Exception | KeyboardInterrupt) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing was written.", 130
    if isinstance(error, FxpruneError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        said = [f"{place}{error.strerror or error}", *getattr(error, "__notes__", [])]  # a job notes how to go on
        return f"cannot read or write: {'; '.join(said).removesuffix('.')}.", 2
    if is_out_of_memory(error):
        first = first_line(error).rstrip(".")
        return f"out of memory: {'; '.join([first, *getattr(error, '__notes__', [])]).removesuffix('.')}.", 2
    return f"unexpected {kind_and_line(error).removesuffix('.')}. Run again with --debug to see where.", 1


def _say_as_json(command: str | None, kind: type, message: str, code: int) -> None:
    if not process_number():
        print(as_json(command, {"error": {"kind": kind.__name__, "message": message}}, code))


def _fail(message: str, code: int) -> int:
    from fxprune.common.text import printable

    number = process_number()
    print(f"fxprune{f' (process {number})' if number else ''}: {printable(message)}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print our warnings as one line each, without the line of our code that gave it."""
    import warnings

    from fxprune.common.text import printable

    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if category.__module__ == FxpruneError.__module__:
                print(f"fxprune: warning: {printable(str(message))}", file=sys.stderr, flush=True)
            else:
                shown(message, category, *place, **more)

        warnings.showwarning = show
        yield


def _unwind_on_sigterm() -> None:
    """Turn SIGTERM into an exception, so that temporary files are removed; main thread only."""
    import signal  # not for --help, like threading: they are slow
    import threading

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class _Formatter(argparse.HelpFormatter):
    """Help as wide as the terminal, with the paragraphs of its description."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"width": terminal_columns(80) - 2, **settings})  # by itself it imports much

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Formatter, self)._fill_text(each, width, indent) for each in text.split("\n\n"))

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap

        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)  # keeps hf-hub:NAME whole


class _Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line instead of printing every option."""

    wants_json = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Reject an unknown flag before a missing argument, and name the closest flag."""
        self.wants_json = "--json" in (args or ())
        for word in args or ():
            flag = word.partition("=")[0]
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                break  # what follows are no flags, or those of a command
            if word.startswith("--") and " " not in word and flag not in self._option_string_actions:
                self.error(self._no_option(flag))
        return super().parse_known_args(args, namespace)

    def _no_option(self, flag: str) -> str:
        from fxprune.passes.options import REMOVED, field_name

        if (name := field_name(flag)) in REMOVED:
            return f"the option `{flag}` is gone: {REMOVED[name][1]}"
        named = [action.metavar for action in self._actions if not action.option_strings]
        if flag[2:].upper() in named:
            return f"there is no option `{flag}`; {flag[2:].upper()} stands without a flag"
        if name == "num_classes" and {"--model", "--data"} <= self._option_string_actions.keys():
            return f"there is no option `{flag}` here: the images of --data decide it"
        if others := _commands_with(flag):
            return f"there is no option `{flag}` here; it is one of {' and '.join(others)}"
        return f"there is no option `{flag}`.{_closest_flag(flag, self._option_string_actions)}".removesuffix(".")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the closest command, or the closest of the choices."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            from fxprune.common.choices import closest

            near = closest(value, action.choices) or f" The commands are {', '.join(action.choices)}."
            line = f"there is no command `{value}`.{near}"
            raise argparse.ArgumentError(None, line.removesuffix("."))
        if action.choices is not None and value not in action.choices:
            from fxprune.common.choices import closest

            name = action.option_strings[0] if action.option_strings else action.metavar
            line = f"`{name}` must be one of {', '.join(action.choices)}, not {value}.{closest(value, action.choices)}"
            raise argparse.ArgumentError(None, line.removesuffix("."))

    def error(self, message: str) -> NoReturn:
        from fxprune.common.text import printable

        end = "" if message.endswith("?") else "."
        if self.wants_json:
            _say_as_json(self.prog.partition(" ")[2] or None, OptionError, f"{message}{end}", 2)
        self.exit(2, f"{self.prog}: {printable(message)}{end} See `{self.prog} --help`.\n")


class _Command(_Parser):
    """The parser of a command, which gets its arguments when it is asked for."""

    def fill(self) -> None:
        """Add the arguments of the command."""
        name = self.prog.rpartition(" ")[2]
        module = importlib.import_module(f".commands.{name}", __package__)
        self.description = module.__doc__
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        self.add_argument("--json", action="store_true", help="print one JSON document, and nothing else on stdout")
        module.add_arguments(self)
        named = [str(action.metavar) for action in self._actions if not action.option_strings]
        self.usage = " ".join(["%(prog)s", *named, "[OPTION ...]"])  # all flags would fill a screen
        self.set_defaults(command=name, run=module.run)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments of the command."""
        self.fill()
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            named = "; --model names the network" if "--model" in self._option_string_actions else ""
            self.error(f"there is no place for {' '.join(f'`{word}`' for word in rest)}{named}")
        return namespace, rest


def _commands_with(flag: str) -> list[str]:
    """Name the commands that have a flag."""
    commands = _filled(_parser())
    return [f"`fxprune {name}`" for name, command in commands.items() if flag in command._option_string_actions]


def _closest_flag(flag: str, flags: Iterable[str]) -> str:
    """Return the hint with the closest flag; the dashes are alike in all."""
    from fxprune.common.choices import closest

    return closest(flag.lstrip("-"), [each[2:] for each in flags if each.startswith("--")]).replace("`", "`--", 1)


def _filled(parser: argparse.ArgumentParser) -> dict[str, _Command]:
    """Return the parsers of all commands, with their arguments."""
    (commands,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.values():
        command.fill()
    return dict(commands)


class _PrintCompletion(argparse.Action):
    """An action that prints a completion script of the whole parser, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        """Print the script for the given shell."""
        print(completion(parser, {name: (each, COMMANDS[name]) for name, each in _filled(parser).items()}, given[1]))
        parser.exit()


def _parser(first: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Make the parser of all commands, or of the one that the first word asks for."""
    about = "Train filters to be identical (C-SGD), then merge them at no loss."
    begin = "Begin with `fxprune inspect resnet18`: what can be pruned. `fxprune COMMAND --help` lists the options."
    parser = _Parser(prog="fxprune", description=about, epilog=begin)
    parser.add_argument("--version", action="version", version=f"fxprune {__version__}")
    about = "print what completes commands and flags in this shell, and exit"
    parser.add_argument("--print-completion", action=_PrintCompletion, choices=SHELLS, help=about)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)
    for name in [*COMMANDS.keys() & {*first}] or COMMANDS:
        commands.add_parser(name, help=COMMANDS[name])
    return parser
