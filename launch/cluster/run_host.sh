#!/usr/bin/env bash
# One host of a job: starts torchrun, and passes what the cluster says on to the workers.
#
#   NNODES=4 NPROC_PER_NODE=8 RDZV_ENDPOINT=host-0:29500 RDZV_ID=42 bash launch/cluster/run_host.sh launch/train.py experiment=...
#
# The launchers for Slurm, Kubernetes and host lists all come down to this script. It reads:
#   NNODES          hosts, or MIN:MAX for a job that goes on with fewer hosts (see TORCH_DISABLE_SHARE_RDZV_TCP_STORE below)
#   NPROC_PER_NODE  workers on this host: one for each GPU
#   RDZV_ENDPOINT   HOST:PORT at which the hosts meet; [ADDRESS]:PORT for IPv6. The same on all hosts, of one of them
#   RDZV_ID         any word; the same on all hosts, another one for every job
#   HOST_INDEX      0 on the host of RDZV_ENDPOINT, other numbers elsewhere; Slurm's and Kubernetes' own numbers, unless set
#   RDZV_CONF       more of the rendezvous: join_timeout=600,read_timeout=60
#   LOCAL_ADDR      this host's address for the others, where its name does not resolve to it
#   MAX_RESTARTS    how often workers are started again after a failure, by torchrun, on the hosts that are there
#   PYTHON          the interpreter of the environment
#   PID_FILE        where to leave this script's process id, for those who are to send it signals
#   DRY_RUN=1       print the final command, and do nothing
# What is not set is left to torchrun, which also reads PET_NNODES and the like, as Kubeflow sets them.
#
# On SIGTERM or SIGUSR1 the workers save a checkpoint and stop: each of them hears SIGTERM, and torchrun nothing. (torchrun
# would die of SIGUSR1, and after SIGTERM gives its workers 30 s and no more.) A job that saved and stopped, wherever the
# signal came, ends with 75 here on every host: start it again, and it continues.
set -euo pipefail

# So long do workers have after a SIGTERM that torchrun itself hears, all the same.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}"
# Without it, hosts that join a running elastic job hang in torchrun 2.13.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE="${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}"

command=("${PYTHON:-python}" -m torch.distributed.run)
[[ -n "${NNODES:-}" ]] && command+=("--nnodes=$NNODES")
[[ -n "${NPROC_PER_NODE:-}" ]] && command+=("--nproc_per_node=$NPROC_PER_NODE")
[[ -n "${RDZV_ENDPOINT:-}" ]] && command+=(--rdzv_backend=c10d "--rdzv_endpoint=$RDZV_ENDPOINT")
[[ -n "${RDZV_ID:-}" ]] && command+=("--rdzv_id=$RDZV_ID")
conf="${RDZV_CONF:-}"
index="${HOST_INDEX:-${SLURM_NODEID:-${JOB_COMPLETION_INDEX:-}}}"
# Else torchrun finds out by looking up names, which containers do not always have.
if [[ -n "${RDZV_ENDPOINT:-}" && -n "$index" ]]; then
  conf="is_host=$([[ "$index" == 0 ]] && echo true || echo false)${conf:+,$conf}"
fi
[[ -n "$conf" ]] && command+=("--rdzv_conf=$conf")
[[ -n "${LOCAL_ADDR:-}" ]] && command+=("--local_addr=$LOCAL_ADDR")
[[ -n "${MAX_RESTARTS:-}" ]] && command+=("--max-restarts=$MAX_RESTARTS")
command+=("$@")

if [[ "${DRY_RUN:-0}" == 1 ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi

export SHARDFM_PREEMPTED_FILE="${TMPDIR:-/tmp}/shardfm-preempted-$$"
rm -f "$SHARDFM_PREEMPTED_FILE"
stopped=0
# shellcheck disable=SC2317  # called by the trap
stop_workers() {
  stopped=$((stopped + 1))
  pkill -TERM -P "$torchrun" || true  # no workers: they are not there yet, or not any more
}

[[ -n "${PID_FILE:-}" ]] && echo "$$" > "$PID_FILE"
"${command[@]}" &
torchrun=$!
trap stop_workers TERM USR1

# A signal ends a `wait`, not torchrun.
heard=-1
while ((heard != stopped)); do
  heard=$stopped
  wait "$torchrun" && code=0 || code=$?
done
[[ -n "${PID_FILE:-}" ]] && rm -f "$PID_FILE"
if [[ -e "$SHARDFM_PREEMPTED_FILE" ]]; then
  rm -f "$SHARDFM_PREEMPTED_FILE"
  exit 75
fi
exit "$code"
