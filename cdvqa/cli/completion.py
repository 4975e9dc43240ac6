"""`cdvqa completion`: complete commands, config names and options in a shell."""

from cdvqa.cli.commands import COMMANDS
from cdvqa.cli.configs import shipped, shipped_configs
from cdvqa.cli.help_texts import TOPICS, options_of
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
    local command=${{COMP_WORDS[1]}}
    if [[ $command == prepare ]] && (( COMP_CWORD > 2 )); then command="prepare ${{COMP_WORDS[2]}}"; fi
    if (( COMP_CWORD == 1 )); then
        words="{commands}"
    else
        case ${{before%=}} in
            --config|-c) words="{configs}" ;;
            --study) words="{studies}" ;;
            --help) words="{topics}" ;;
        esac
    fi
    if [[ -z $words && $before != *= ]]; then
        case $command in
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
    made = ("scenes", "scenes-vs", "easyvqa", "features", "questions")
    words = {name: options_of(name) for name in (*COMMANDS, *(f"prepare {name}" for name in made))}
    words |= {"prepare": [*made], "completion": ["bash", "zsh"]}
    for name in ("sweep", "search"):
        words[name] = [*studies, *words[name]]
    cases = "\n".join(f'            "{name}") words="{" ".join(own)}" ;;' for name, own in words.items())
    configs = " ".join(sorted(path.name for path in shipped_configs()))
    listed = {"commands": COMMANDS, "studies": studies, "topics": TOPICS}
    return SCRIPT.format(configs=configs, cases=cases, **{name: " ".join(known) for name, known in listed.items()})
