#!/usr/bin/env bash
# A job on a list of hosts, by ssh; what follows the list goes to launch/train.py:
#
#   launch/cluster/hosts.sh hosts.txt experiment=criteo_1tb data.root=/shared/criteo
#   SCRIPT=launch/doctor.py launch/cluster/hosts.sh hosts.txt experiment=...     # before it
#   DRY_RUN=1 launch/cluster/hosts.sh hosts.txt experiment=...                   # prints the final commands
#
# hosts.txt has a host in every line, with its address if the name is not the one that the other hosts know it by; the first
# one keeps the rendezvous. Ctrl-C or SIGTERM here: all workers save and stop. It reads PYTHON, NPROC_PER_NODE, NNODES,
# MAX_RESTARTS and RDZV_CONF (see run_host.sh), and:
#   DIRECTORY  of the project on all hosts; this one, unless it is set
#   EXPORTS    more variables for the workers: EXPORTS="GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0"
#   PORT       of the rendezvous: 29500
#   SCRIPT     launch/train.py
#   SSH        the command that reaches a host: ssh
set -euo pipefail

list="$1"
shift
read -ra reach <<< "${SSH:-ssh -o BatchMode=yes}"
directory="${DIRECTORY:-$PWD}"
names=()
addresses=()
while read -r name address; do
  [[ -z "$name" || "$name" == \#* ]] && continue
  names+=("$name")
  addresses+=("${address:-$name}")
done < "$list"
[[ ${#names[@]} -gt 0 ]] || { echo "$list names no host" >&2; exit 2; }

id="shardfm-$$"
pid_file="/tmp/$id.pid"
endpoint="${addresses[0]}"
[[ "$endpoint" == *:* ]] && endpoint="[$endpoint]"

# What a host is told, as the input of its shell.
told() {
  printf 'cd %q || exit 2\n' "$directory"
  printf 'export %q\n' "NNODES=${NNODES:-${#names[@]}}" "NPROC_PER_NODE=${NPROC_PER_NODE:-gpu}" "RDZV_ID=$id" \
    "RDZV_ENDPOINT=$endpoint:${PORT:-29500}" "RDZV_CONF=${RDZV_CONF:-}" "HOST_INDEX=$1" "LOCAL_ADDR=${addresses[$1]}" \
    "MAX_RESTARTS=${MAX_RESTARTS:-3}" "PYTHON=${PYTHON:-python}" "PID_FILE=$pid_file-$1"
  for variable in ${EXPORTS:-}; do printf 'export %q\n' "$variable"; done
  printf 'exec bash launch/cluster/run_host.sh'
  printf ' %q' "${SCRIPT:-launch/train.py}" "${arguments[@]}"
  echo
}

arguments=("$@")
hosts=()
for i in "${!names[@]}"; do
  script="$(told "$i")"
  if [[ "${DRY_RUN:-0}" == 1 ]]; then
    echo "# ${reach[*]} ${names[$i]} bash -s"
    echo "$script"
    continue
  fi
  "${reach[@]}" "${names[$i]}" bash -s <<< "$script" &
  hosts+=("$!")
done
[[ "${DRY_RUN:-0}" == 1 ]] && exit 0

stopped=0
# The workers of the first host are enough: they tell the others.
# shellcheck disable=SC2317  # called by the trap
stop() {
  stopped=$((stopped + 1))
  "${reach[@]}" "${names[0]}" bash -s <<< "kill -USR1 \$(cat $pid_file-0)" || true
}
trap stop INT TERM USR1

worst=0
for host in "${hosts[@]}"; do
  heard=-1
  while ((heard != stopped)); do
    heard=$stopped
    wait "$host" && code=0 || code=$?
  done
  ((code > worst)) && worst=$code
done
exit "$worst"
