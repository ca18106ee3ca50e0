#!/usr/bin/env bash
# slurm-up.sh - start a throw-away Slurm cluster in one directory, without systemd.
#
#   slurm-up.sh DIR [--nodes N] [--gpus G] [--cpus C] [--mem MB]
#                   [--accounting auto|db|shim|none] [--mode auto|netns|ns|plain]
#   . DIR/env.sh          # then sbatch, srun, squeue, sacct, submitit ... talk to it
#   slurm-down.sh DIR     # stop it
#
# What it is: real munged, slurmctld, slurmdbd (+ MariaDB) and one real slurmd per node, all
# on this host. CPUs, memory and GPUs are only numbers in slurm.conf: jobs are granted them
# and see CUDA_VISIBLE_DEVICES, but nothing is enforced. Defaults: 2 nodes of 32 CPUs, 64 GB
# and 8 GPUs with the feature "h100"; partitions "main" (default) and "high" (preempts main by
# requeueing). slurm-settings.sh holds the settings, slurm-lib.sh what up and down share.
#
# Accounting: "db" is slurmdbd with MariaDB (accounts and QOS work); "shim" is a small sacct that
# asks the controller, for those who poll job states; auto takes db where its programs are.
#
# Modes, best first; auto takes the first that works here:
#   netns  nodes n1..nN (and the controller "ctl") have their own network, hostname,
#          /etc/hosts and process table. localhost is private to a node, as on a real
#          cluster; nothing listens outside the cluster's own bridge. Needs root.
#   ns     the same without the network: nodes are 127.0.77.K on the shared loopback.
#          Works for users too where the kernel lets them make namespaces.
#   plain  no namespaces: nodes are named 127.0.77.K (resolvable everywhere), all with this
#          host's hostname.
# In the last two modes the daemons listen on all interfaces; messages without this
# cluster's MUNGE key are refused.
#
# Everything is written below DIR. Running it again is safe: a live cluster is left as it is
# and only what died is started again; a stopped one starts afresh (empty queue, no history).
#
# Debian 12: apt-get install --no-install-recommends slurm-wlm munge
#            for --accounting db also: slurmdbd slurm-wlm-mysql-plugin \
#                                      mariadb-server-core mariadb-client-core
set -euo pipefail
umask 022
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C
for v in ${!SLURM_@} ${!SBATCH_@} ${!SRUN_@}; do unset "$v"; done   # we may be in a job

NODES=2 GPUS=8 CPUS=32 MEM=65536 ACCOUNTING=auto MODE=auto DIR=
HERE=$(dirname "$(realpath "$0")")
usage() { sed -n '2,/^set -euo/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit "${1:-2}"; }
die()   { echo "slurm-up: $*" >&2; exit 1; }
while (($#)); do
  case $1 in
    --nodes|--gpus|--cpus|--mem)
      [[ ${2-} =~ ^[0-9]+$ ]] || usage; v=${1#--}; declare "${v^^}=$2"; shift 2;;
    --accounting) [[ ${2-} =~ ^(auto|db|shim|none)$ ]] || usage; ACCOUNTING=$2; shift 2;;
    --mode) [[ ${2-} =~ ^(auto|netns|ns|plain)$ ]] || usage; MODE=$2; shift 2;;
    -h|--help) usage 0;;
    -*) usage;;
    *) [[ -z $DIR ]] || usage; DIR=$1; shift;;
  esac
done
[[ -n $DIR ]] && ((NODES >= 1 && NODES <= 64 && CPUS >= 1)) || usage
for t in munged slurmctld slurmd sbatch; do
  command -v "$t" >/dev/null || die "$t is missing: apt-get install --no-install-recommends slurm-wlm munge"
done
DIR=$(realpath -m "$DIR")
# munge and slurmd put UNIX sockets below DIR; the kernel allows them 107 characters.
((${#DIR} <= 70)) || die "path too long for UNIX sockets (over 70 characters): $DIR"
[[ $DIR != *[[:space:]]* ]] || die "no blanks in the path, please: $DIR"
if [[ -d $DIR && ! -e $DIR/.slurm-up && -n $(ls -A "$DIR") ]]; then
  die "$DIR is not empty and was not made by slurm-up"
fi
mkdir -p "$DIR"; : >>"$DIR/.slurm-up"
exec 9>"$DIR/.lock"; flock -w 60 9 || die "another slurm-up or slurm-down is at work in $DIR"

# --- Starting processes.
. "$HERE/slurm-lib.sh"
spawn() {       # NAME COMMAND... : detached (setsid), holding none of our descriptors
  local name=$1; shift
  setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 9>&- &
  echo "$! $(start_time $!)" >"$DIR/run/$name.pid"
}
wait_for() {    # SECONDS NAME COMMAND... : until COMMAND succeeds, as long as NAME lives
  local end=$((SECONDS + $1)) name=$2; shift 2
  until "$@" >"$DIR/run/last" 2>&1; do
    if ! alive "$name" || ((SECONDS >= end)); then
      { echo "slurm-up: $name did not come up. '$*' says:"; cat "$DIR/run/last"
        echo "Its log ends:"; tail -qn 15 "$DIR/log/$name".*; } >&2
      exit 1
    fi
    sleep 0.1
  done
}
# In a new namespace: make /etc/hosts and the hostname the host's own, then be the daemon.
IDENTITY='mount --bind "$0/etc/hosts" /etc/hosts && hostname "$1" || exit 1; shift;'
spawn_ctl() {   # NAME COMMAND... : on the controller's host
  local name=$1 net=; shift
  [[ $MODE == netns ]] && net="nsenter --net=/run/netns/$NET-ctl"
  if [[ $MODE == plain ]]; then spawn "$name" "$@"
  else spawn "$name" $net unshare $USERNS --mount --uts bash -c "$IDENTITY"' exec "$@"' "$DIR" ctl "$@"; fi
}
spawn_node() {  # NODE
  local net=
  [[ $MODE == netns ]] && net="nsenter --net=/run/netns/$NET-$1"
  if [[ $MODE == plain ]]; then spawn "$1" slurmd -D -N "$1"
  # bash stays as the namespace's PID 1 and reaps; when unshare is killed, all of the node goes
  else spawn "$1" $net unshare $USERNS $NODENS bash -c "$IDENTITY"' "$@" & wait $!' "$DIR" "$1" slurmd -D -N "$1"; fi
}
NODENS="--mount --uts --pid --fork --kill-child --mount-proc"

# --- Anything still alive? Then keep its settings, else write new ones.
any=0
for f in "$DIR"/run/*.pid; do [[ -e $f ]] && alive "$(basename "$f" .pid)" && any=1; done

if ((!any)); then
  # Clear what a crash may have left, and see that a failed start leaves nothing.
  down() { SLURM_UP_HAS_LOCK=1 "$HERE/slurm-down.sh" "$DIR" >/dev/null; }
  down
  trap '(($?)) && down' EXIT
  rm -rf "$DIR"/{run,state,spool,db,etc,dev,bin,log.old}
  [[ -d $DIR/log ]] && mv "$DIR/log" "$DIR/log.old"
  mkdir -p "$DIR"/{run,state,spool,etc,dev,bin,log}

  if [[ $ACCOUNTING == auto ]]; then
    ACCOUNTING=db
    for t in slurmdbd mariadbd mariadb-install-db my_print_defaults; do
      command -v $t >/dev/null || ACCOUNTING=shim
    done
  fi

  # Ports below 20000, where submitit does not look for torch's MASTER_PORT (20000-60000).
  taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || [[ -e /run/netns/slu$BASE-ctl ]]; }
  for ((try = 0; ; try++)); do
    ((try < 50)) || die "found no free ports"
    # by pid: clusters that start at the same moment do not meet
    BASE=$((10000 + ($$ + try) % 100 * 100))
    for p in $BASE $((BASE + 2)) $((BASE + 3)) $(seq $((BASE + 11)) $((BASE + 10 + NODES))); do
      taken $p && continue 2
    done
    break
  done
  NET=slu$BASE

  USERNS=; ((EUID)) && USERNS="--user --map-current-user --keep-caps"
  try_netns() {   # make one of each, and remove them again
    local ok=1
    ((!EUID)) && ip netns add $NET-ctl && ip link add $NET type bridge && ip link add ${NET}ctl type veth && ok=0
    ip link del ${NET}ctl; ip link del $NET; ip netns del $NET-ctl
    return $ok
  } 2>/dev/null
  try_ns() { unshare $USERNS $NODENS true; } 2>/dev/null
  [[ $MODE == auto ]] && { try_netns && try_ns && MODE=netns || { try_ns && MODE=ns; } || MODE=plain; }

  case $MODE in
    netns) IP=198.18.$((BASE / 100)); NAME=n;;   # 198.18.0.0/15 is set aside for test networks
    ns)    IP=127.0.77; NAME=n;;
    plain) IP=127.0.77; NAME=127.0.77.;;
  esac
  cat >"$DIR/run/settings" <<-END
	NODES=$NODES MODE=$MODE ACCOUNTING=$ACCOUNTING BASE=$BASE NET=$NET IP=$IP NAME=$NAME USERNS='$USERNS'
	END

  if [[ $MODE == netns ]]; then
    ip link add $NET type bridge
    ip addr add $IP.253/24 dev $NET
    ip link set $NET up
    for h in ctl $(seq -f n%g $NODES); do
      ip netns add $NET-$h
      ip link add $NET$h type veth peer name eth0 netns $NET-$h
      ip link set $NET$h master $NET up
      if [[ $h == ctl ]]; then a=254; else a=${h#n}; fi
      ip -n $NET-$h addr add $IP.$a/24 dev eth0
      ip -n $NET-$h link set lo up
      ip -n $NET-$h link set eth0 up
    done
  fi
  # The nodes' /etc/hosts (not this host's).
  { echo "127.0.0.1 localhost"; echo "$IP.254 ctl"; echo "$IP.253 $(hostname)"
    for ((i = 1; i <= NODES; i++)); do echo "$IP.$i n$i"; done; } >"$DIR/etc/hosts"

  . "$HERE/slurm-settings.sh"

  # Clients find everything through SLURM_CONF.
  echo "export SLURM_CONF=$DIR/etc/slurm.conf" >"$DIR/env.sh"
  if [[ $ACCOUNTING == shim ]]; then
    # Job states for those who poll sacct (submitit), from the controller's memory.
    cat >"$DIR/bin/sacct" <<-'END'
	#!/usr/bin/env bash
	# Stands in for: sacct -o JobID,State,NodeList --parsable2 -j ID ... (the rest is ignored)
	ids=
	while (($#)); do
	  case $1 in -j|--jobs) ids+=",$2"; shift 2;; --jobs=*) ids+=",${1#*=}"; shift;; *) shift;; esac
	done
	echo "JobID|State|NodeList"
	squeue -h -r -t all ${ids:+-j "${ids#,}"} -o '%i|%T|%N' 2>/dev/null
	exit 0
	END
    chmod +x "$DIR/bin/sacct"
    echo "case :\$PATH: in *:$DIR/bin:*) ;; *) export PATH=$DIR/bin:\$PATH;; esac" >>"$DIR/env.sh"
  fi
fi
. "$DIR/run/settings"
. "$DIR/env.sh"

# --- Start, in order, whatever is not running.
if ! alive munged; then
  rm -f "$DIR"/run/munge.socket*
  spawn munged munged --foreground --force --num-threads=4 --key-file="$DIR/etc/munge.key" \
    --socket="$DIR/run/munge.socket" --pid-file="$DIR/run/munged.slurmpid" \
    --log-file="$DIR/log/munged.log" --seed-file="$DIR/state/munged.seed"
  wait_for 10 munged munge -n -S "$DIR/run/munge.socket"
fi
if [[ $ACCOUNTING == db ]]; then
  if ! alive mariadbd; then
    rm -f "$DIR/run/mariadb.socket"
    spawn_ctl mariadbd mariadbd --defaults-file="$DIR/etc/my.cnf"
    wait_for 30 mariadbd test -S "$DIR/run/mariadb.socket"
  fi
  if ! alive slurmdbd; then
    spawn_ctl slurmdbd slurmdbd -D
    wait_for 30 slurmdbd sacctmgr -n show cluster
    sacctmgr -i add cluster throwaway >/dev/null 2>&1 || true   # else its jobs are not recorded
  fi
fi
if ! alive slurmctld; then
  spawn_ctl slurmctld slurmctld -D
  wait_for 30 slurmctld scontrol ping
fi
for ((i = 1; i <= NODES; i++)); do
  alive "$NAME$i" || { mkdir -p "$DIR/spool/$NAME$i"; spawn_node "$NAME$i"; }
done
ready() { sinfo -N -p main -o '%N %T'; [[ $(sinfo -h -N -p main -o %T | grep -cE '^(idle|mixed|allocated|completing)$') == "$NODES" ]]; }
wait_for 60 slurmctld ready

cat <<END
Slurm $(sinfo -V | cut -d' ' -f2) is up in $DIR: $NODES node(s) ${NAME}1.., mode $MODE, accounting $ACCOUNTING, ${SECONDS}s.
  use it:  . $DIR/env.sh && srun -N$NODES hostname
  kill a node:  kill -9 \$(cut -d' ' -f1 $DIR/run/${NAME}1.pid)   and again: $HERE/slurm-up.sh $DIR
  logs:    $DIR/log
  stop it: $HERE/slurm-down.sh $DIR
END
