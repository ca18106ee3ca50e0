#!/usr/bin/env bash
# slurm-down.sh DIR - stop the throw-away Slurm that slurm-up.sh started in DIR.
#
# Cancels the jobs, then stops the recorded processes and nothing else: a process is ours
# only if its pid and its start time are those written down when it was started. Safe to
# run twice, and on a half-started or crashed cluster. Logs and configuration stay in DIR.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C
[[ $# == 1 && $1 != -* ]] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
DIR=$(realpath -m "$1")
[[ -e $DIR/.slurm-up ]] || { echo "slurm-down: no slurm-up directory: $DIR" >&2; exit 1; }
[[ -n ${SLURM_UP_HAS_LOCK-} ]] || exec 9>"$DIR/.lock"
[[ -n ${SLURM_UP_HAS_LOCK-} ]] || flock -w 120 9 || { echo "slurm-down: $DIR is locked" >&2; exit 1; }
MODE=
[[ -e $DIR/run/settings ]] && . "$DIR/run/settings"
[[ -e $DIR/env.sh ]] && . "$DIR/env.sh"

. "$(dirname "$(realpath "$0")")/slurm-lib.sh"

stop() {        # NAME SIGNAL : SIGNAL, and SIGKILL after 10 s
  local p end=$((SECONDS + 10))
  if alive "$1"; then
    read -r p _ <"$DIR/run/$1.pid"
    kill -s "$2" "$p" 2>/dev/null || true
    while alive "$1"; do
      ((SECONDS < end)) || kill -s KILL "$p" 2>/dev/null || true
      sleep 0.05
    done
    echo "stopped $1 ($p)"
  fi
  rm -f "$DIR/run/$1.pid"
}

# Jobs first, so that they end as cancelled; after 10 s the end of their nodes must do.
if alive slurmctld && jobs=$(timeout 10 squeue -h -o %A | sort -u) && [[ -n $jobs ]]; then
  timeout 10 scancel $jobs >/dev/null 2>&1 || true
  timeout 10 scancel --full --signal=KILL $jobs >/dev/null 2>&1 || true
  for ((i = 0; i < 50; i++)); do [[ -n $(timeout 10 squeue -h -o %A) ]] || break; sleep 0.2; done
fi
# A node in namespaces has nothing to save, and its PID 1 ignores SIGTERM.
sig=KILL; [[ $MODE == plain ]] && sig=TERM
for f in "$DIR"/run/*.pid; do
  n=$(basename "$f" .pid)
  case $n in '*'|munged|mariadbd|slurmdbd|slurmctld) ;; *) stop "$n" $sig;; esac
done
if [[ $MODE == plain ]]; then
  # Here job steps outlive their slurmd. Those that have a file of DIR open (its log) are
  # ours: stop them with all their children.
  tree() { local c; for c in $(cat /proc/"$1"/task/*/children 2>/dev/null); do tree "$c"; done; echo "$1"; }
  for p in $(pgrep -x slurmstepd || true); do
    if readlink /proc/"$p"/fd/* 2>/dev/null | grep -qF "$DIR/"; then
      kill -s KILL $(tree "$p") 2>/dev/null || true
    fi
  done
fi
for n in slurmctld slurmdbd mariadbd munged; do stop "$n" TERM; done
if [[ $MODE == netns ]]; then
  for ns in /run/netns/"$NET"-*; do
    [[ -e $ns ]] || continue
    n=$(basename "$ns")
    ip link del "$NET${n#"$NET"-}" 2>/dev/null || true
    ip netns del "$n"
  done
  ip link del "$NET" 2>/dev/null || true
fi
rm -f "$DIR/run/settings"
echo "Slurm in $DIR is down."
