# Sourced by slurm-up.sh: writes the settings of a new cluster to DIR/etc.

# A GPU without File= counts as none in Slurm 22.05, and File= must be a character device.
gres=
if ((GPUS)); then
  gres="Gres=gpu:$GPUS"
  for ((i = 0; i < GPUS; i++)); do
    ln -s /dev/null "$DIR/dev/gpu$i"; echo "Name=gpu File=$DIR/dev/gpu$i"
  done
fi >"$DIR/etc/gres.conf"

head -c 1024 /dev/urandom >"$DIR/etc/munge.key"; chmod 400 "$DIR/etc/munge.key"

me=$(id -un)
if [[ $MODE == plain ]]; then ctl="$(hostname)(127.0.0.1)" ctl_ip=127.0.0.1 nodehost="NodeHostname=$(hostname)"
else ctl="ctl($IP.254)" ctl_ip=$IP.254 nodehost=; fi
storage=none
if [[ $ACCOUNTING == db ]]; then
  # (the connection to slurmdbd does not look at AuthInfo)
  storage="slurmdbd
AccountingStorageHost=$ctl_ip
AccountingStoragePort=$((BASE + 2))
AccountingStoragePass=$DIR/run/munge.socket"
fi
{
cat <<-END
	ClusterName=throwaway
	SlurmctldHost=$ctl
	SlurmctldPort=$BASE
	SlurmUser=$me
	SlurmdUser=$me
	AuthType=auth/munge
	CredType=cred/munge
	# cred_expire is also how long a requeued job waits: 120 s unless told, at least 5
	AuthInfo=socket=$DIR/run/munge.socket,cred_expire=5
	StateSaveLocation=$DIR/state
	SlurmdSpoolDir=$DIR/spool/%n
	SlurmctldPidFile=$DIR/run/slurmctld.slurmpid
	SlurmdPidFile=$DIR/run/%n.slurmpid
	SlurmctldLogFile=$DIR/log/slurmctld.log
	SlurmdLogFile=$DIR/log/%n.log
	# no cgroups: follow processes through /proc, bind and enforce nothing
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	JobAcctGatherType=jobacct_gather/none
	MpiDefault=none
	MailProg=/bin/true
	# believe the sizes below, not the hardware
	SlurmdParameters=config_overrides
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core_Memory
	# without this a job that names no --mem takes all memory of its nodes
	DefMemPerCPU=256
	GresTypes=gpu
	SchedulerParameters=bf_interval=2,sched_interval=5
	# preemption: jobs in "high" requeue jobs in "main", 10 s after their --signal
	PreemptType=preempt/partition_prio
	PreemptMode=REQUEUE
	SlurmctldParameters=preempt_send_user_signal
	JobRequeue=1
	KillWait=3
	ReturnToService=2
	SlurmdTimeout=30
	BatchStartTimeout=60
	MessageTimeout=30
	# keep finished jobs in squeue -t all and scontrol show job
	MinJobAge=86400
	PropagateResourceLimits=NONE
	# other job ids in every cluster: submitit derives MASTER_PORT from them
	FirstJobId=$((RANDOM % 8000 + 1000))
	AccountingStorageType=accounting_storage/$storage
	END
for ((i = 1; i <= NODES; i++)); do
  echo "NodeName=$NAME$i $nodehost NodeAddr=$IP.$i Port=$((BASE + 10 + i)) CPUs=$CPUS RealMemory=$MEM Feature=h100 $gres"
done
cat <<-END
	PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=INFINITE DefaultTime=60
	PartitionName=main Default=YES PriorityTier=1 GraceTime=10
	PartitionName=high PriorityTier=10 PreemptMode=OFF
	END
} >"$DIR/etc/slurm.conf"

if [[ $ACCOUNTING == db ]]; then
  pw=$(head -c 18 /dev/urandom | base64 | tr -dc A-Za-z0-9)
  ( umask 077   # slurmdbd insists on 0600 for its file with the password
    cat >"$DIR/etc/slurmdbd.conf" <<-END
	AuthType=auth/munge
	AuthInfo=socket=$DIR/run/munge.socket
	DbdHost=localhost
	DbdPort=$((BASE + 2))
	SlurmUser=$me
	PidFile=$DIR/run/slurmdbd.slurmpid
	LogFile=$DIR/log/slurmdbd.log
	StorageType=accounting_storage/mysql
	StorageHost=127.0.0.1
	StoragePort=$((BASE + 3))
	StorageUser=slurm
	StoragePass=$pw
	StorageLoc=slurm_acct_db
	END
    cat >"$DIR/etc/init.sql" <<-END
	CREATE DATABASE IF NOT EXISTS slurm_acct_db;
	CREATE OR REPLACE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '$pw';
	GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
	END
    cat >"$DIR/etc/my.cnf" <<-END
	[mariadbd]
	user=$me
	datadir=$DIR/db
	socket=$DIR/run/mariadb.socket
	pid-file=$DIR/run/mariadbd.slurmpid
	bind-address=127.0.0.1
	port=$((BASE + 3))
	init-file=$DIR/etc/init.sql
	skip-name-resolve
	skip-log-bin
	innodb_buffer_pool_size=64M
	innodb_log_file_size=16M
	innodb_flush_log_at_trx_commit=0
	innodb_lock_wait_timeout=900
	END
  )
  mariadb-install-db --no-defaults --user="$me" --datadir="$DIR/db" --skip-test-db \
    --auth-root-authentication-method=normal --innodb-log-file-size=16M \
    >"$DIR/log/mariadb-install-db.out" 2>&1 || die "see $DIR/log/mariadb-install-db.out"
fi

