# Runs a PostgreSQL server for a parent process and never outlives it.
#
#   guard.sh DIRECTORY_TO_REMOVE_OR_EMPTY LOG_FILE POSTGRES ARGUMENT...
#
# The parent holds the other end of our input. However it ends, the input closes: then the server
# gets a fast stop, and a throw-away directory is removed.
#
# words from the parent                  answers
#   start PORT                             pid NUMBER, later (whatever the reason) ended STATUS
#   signal NAME PID...                     none
# PIPE: the parent may be gone when we answer; the clean-up below must still happen.
# HUP: sent to all of us by the kernel when the parent ends while the server is frozen.
trap '' PIPE HUP
remove=$1 log=$2
shift 2
exec 3<&0 # background commands get /dev/null as input, so the pipe needs a number of its own

relay_signals() {
    stopped=
    while read -r word name pids <&3; do
        [ "$word" = signal ] || continue
        [ "$name" != STOP ] || stopped="$stopped $pids"
        kill -s "$name" $pids
    done
    [ -z "$stopped" ] || kill -s CONT $stopped # a frozen process would not notice the stop
    kill -s INT "$1"
}

while read -r word port <&3; do
    [ "$word" = start ] || continue # a signal for a server that had just ended
    "$@" -p "$port" >>"$log" 2>&1 </dev/null 3<&- &
    server=$!
    echo "pid $server"
    relay_signals "$server" 2>/dev/null &
    relay=$!
    wait "$server"
    status=$?
    kill "$relay" 2>/dev/null
    wait "$relay" # two readers would share out the parent's words
    echo "ended $status"
done
[ -z "$remove" ] || rm -rf "$remove"
