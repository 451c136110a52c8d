"""The script with which a shell completes commands, flags and the names that they take: `flowpp --completion=bash`."""

from collections.abc import Iterator
import shlex

from flowpp_tf.core.errors import unknown_name
from flowpp_tf.programs.commands import COMMANDS
from flowpp_tf.programs.flag_kinds import names_of
from flowpp_tf.programs.run import flags_of

SHELLS = ("bash", "zsh", "fish")

# The word is read from the line: bash, unlike zsh, splits words at "=", and completes what follows it.
_BASH = """_flowpp() {{
  local line=${{COMP_LINE:0:$COMP_POINT}} command='' each words
  local word=${{line##* }}
  for each in "${{COMP_WORDS[@]}}"; do
    each=${{each##*/}}
    case "${{each#flowpp-}}" in {commands}) command=${{each#flowpp-}}; break ;; esac
  done
  COMPREPLY=()
  case "$command:$word" in
    :*) words='{words}' ;;
{cases}
    *) return ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{word#*=}}"))
  case "${{COMPREPLY[*]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
  case "$ZSH_VERSION:$word" in :*) ;; *=*) COMPREPLY=("${{COMPREPLY[@]/#/${{word%%=*}}=}}") ;; esac
}}
complete {options} -F _flowpp flowpp {programs}
"""


def completion_script(shell: str) -> str:
  """Return the script for a shell; raise an `InputError` (a ValueError) for another than `SHELLS`."""
  if shell not in SHELLS:
    raise unknown_name("shell", shell, SHELLS)
  flags = {command: [flag for found in flags_of(command).values() for flag in found] for command in COMMANDS}
  if shell == "fish":
    return "".join(_lines_of_fish(flags))
  cases = "\n".join(f"    {pattern}) words={shlex.quote(' '.join(words))} ;;" for pattern, words in _cases(flags))
  programs = " ".join(f"flowpp-{command} bin/{command}" for command in COMMANDS)  # of the package, of a clone as typed
  options = "-o default" if shell == "bash" else "-o default -o nospace"  # zsh has no compopt
  script = _BASH.format(
    commands="|".join(COMMANDS), words=" ".join(COMMANDS), cases=cases, programs=programs, options=options
  )
  return script if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{script}"


def _cases(flags):
  """Yield what matches `COMMAND:WORD`, and the words that may follow."""
  for command, found in flags.items():
    for flag in found:
      if names_of(flag):
        yield f"{command}:--{flag.name}=*", names_of(flag)
    yield f"{command}:-*=*", ()  # files
    yield f"{command}:-*", [word for flag in found for word in _words(flag)]


def _words(flag):
  return [f"--{flag.name}", f"--no{flag.name}"] if flag.boolean else [f"--{flag.name}="]


def _lines_of_fish(flags) -> Iterator[str]:
  for command, what in COMMANDS.items():
    yield f"complete -c flowpp -n __fish_use_subcommand -xa {command} -d {shlex.quote(what)}\n"
    for flag in flags[command]:
      names = f" -xa {shlex.quote(' '.join(names_of(flag)))}" if names_of(flag) else "" if flag.boolean else " -r"
      for one in (f"-c flowpp -n '__fish_seen_subcommand_from {command}'", f"-c flowpp-{command}"):
        yield f"complete {one} -l {flag.name}{names} -d {shlex.quote(flag.help.partition('. ')[0])}\n"
