# Sourced by slurm-up.sh and slurm-down.sh: the cluster's processes, known by files DIR/run/NAME.pid.
#
# Each holds "pid start-time", so that neither a reused pid nor a zombie (PID 1 of a container
# may never reap) is taken for one of ours.
start_time() {  # PID -> its start time in ticks; fails for dead and zombie processes
  local s; s=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  set -- ${s##*) }; [[ $1 != [ZX] ]] && echo "${20}"
}
alive() {       # NAME
  local p t; read -r p t 2>/dev/null <"$DIR/run/$1.pid" || return 1
  [[ -n $t && $(start_time "$p") == "$t" ]]
}
