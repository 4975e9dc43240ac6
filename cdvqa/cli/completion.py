"""`cdvqa completion`: complete commands, config names and options in a shell."""

from cdvqa.cli.commands import COMMANDS
from cdvqa.cli.configs import shipped, shipped_configs
from cdvqa.cli.help_texts import options_of
from cdvqa.errors import InputError

HELP = """\
usage: cdvqa completion bash|zsh

Print a script that completes commands, config names and options. Add one of these lines to ~/.bashrc or ~/.zshrc:

  eval "$(cdvqa completion bash)"
  eval "$(cdvqa completion zsh)\""""

# Bash splits a word at `=`; a word that nothing fits is completed as a file.
SCRIPT = """\
_cdvqa() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=
    if [[ $word == = ]]; then word=; before="$before="; fi
    if [[ $before == = ]]; then before=${{COMP_WORDS[COMP_CWORD-2]}}=; fi
    if (( COMP_CWORD == 1 )); then
        words="{commands}"
    elif [[ $before == --config || $before == --config= || $before == -c ]]; then
        words="{configs}"
    elif [[ $before != *= ]]; then
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _cdvqa cdvqa
"""
ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def run(args: list[str]) -> None:
    """Print the script of a shell."""
    match args[1:]:
        case ["--help" | "-h"]:
            print(HELP)
        case ["bash"]:
            print(script(), end="")
        case ["zsh"]:
            print(ZSH + script(), end="")
        case _:
            raise InputError("name the shell: `cdvqa completion bash` or `cdvqa completion zsh`")


def script() -> str:
    """The function that completes for bash, and its registration."""
    studies = sorted(path.stem for path in (shipped() / "studies").glob("*.yaml"))
    words = {name: options_of("prepare questions" if name == "prepare" else name) for name in COMMANDS}
    words["prepare"] = ["scenes", "scenes-vs", "easyvqa", "features", "questions", *words["prepare"]]
    words["completion"] = ["bash", "zsh"]
    for name in ("sweep", "search"):
        words[name] = [*studies, *words[name]]
    cases = "\n".join(f'            {name}) words="{" ".join(own)}" ;;' for name, own in words.items())
    configs = " ".join(sorted(path.name for path in shipped_configs()))
    return SCRIPT.format(commands=" ".join(COMMANDS), configs=configs, cases=cases)
