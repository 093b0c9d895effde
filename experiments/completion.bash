# Completes keys, groups and their values: source experiments/completion.bash, then python -m experiments.train algo<Tab>
_errata() {
  local word="${COMP_WORDS[COMP_CWORD]}" program="" i
  for ((i = 1; i < COMP_CWORD; i++)); do [[ "${COMP_WORDS[i]}" == -m && -z "$program" ]] && program="${COMP_WORDS[i + 1]}"; done
  if [[ "$program" == "$word" ]]; then
    local programs=(experiments.{train,sft,evaluate,compare,report,watch,play,check,export,pretrain_tiny,list})
    COMPREPLY=($(compgen -W "${programs[*]}" -- "$word"))
  elif [[ "$program" == experiments.* && "$program" != experiments.list ]]; then
    compopt -o nospace
    COMPREPLY=($(compgen -W "$(COMP_LINE="errata ${COMP_LINE#*"$program" }" "${COMP_WORDS[0]}" -m "$program" -sc query=bash)" -- "$word"))
  fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o default -F _errata python python3
