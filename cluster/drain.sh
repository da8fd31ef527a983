#!/bin/bash
# What a pod or machine does before it goes: tells Ray, so that training writes a checkpoint and no new work comes, and
# waits until its work has ended.
#
#   drain.sh [SECONDS]     at most this long; 110 if not given
#
# A node without work leaves at once, so the end of a job is not delayed.
seconds=${1:-110}

busy() {
    # Ray names its processes: ray::WHAT. Idle ones and Ray's own helpers are no work.
    local process command
    for process in "${PROC:-/proc}"/[0-9]*/cmdline; do
        command=$(tr '\0' ' ' 2>/dev/null < "$process")
        case $command in
            ray::IDLE* | ray::DashboardAgent* | ray::RuntimeEnvAgent* | ray::_StatsActor* | ray::_Autoscaling*) ;;
            ray::*) return 0 ;;
        esac
    done
    return 1
}

busy || exit 0
# The head cannot be drained; it only waits for its driver.
timeout 30 ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the node is going away" \
    --deadline-remaining-seconds "$seconds" > /dev/null 2>&1
while busy && ((SECONDS < seconds)); do
    sleep 1
done
exit 0
