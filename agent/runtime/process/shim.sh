#!/bin/sh
# Runs one program for the agent, outlives the agent, and records what became of the program.
#
#   sh shim.sh DIR TOOLS CGROUPS CWD PROGRAM [ARGUMENT...]
#
#   DIR      directory of this start; the records are written there
#   TOOLS    PATH for ln, mv, rm and sync: the PATH of the environment is the program's
#   CGROUPS  cgroup.procs files that the program joins before anything else, separated by ':'; may be empty
#   CWD      working directory of the program; the shim itself stays in / so that it never holds a volume
#
# Records, one line each:
#   shim, main   BOOT_ID PID START_TICKS      'shim' is also the guard: who links it first runs the program
#   exit         STATUS                       128+n means signal n; 'refused TEXT' when the program never ran
#
# Names begin with ferry_ because any other could be a variable of the program. Everything stands in one brace group:
# sh reads all of it before an upgrade can replace this file.
{
  set -fu
  # The log is the program's: what sh says about its end stays out of it.
  exec 3>&2 2>/dev/null
  ferry_dir=$1 ferry_program_path=$PATH PATH=$2 ferry_cgroups=$3 ferry_cwd=$4
  shift 4
  read -r ferry_boot </proc/sys/kernel/random/boot_id || exit 125
  ferry_umask=$(umask)
  umask 077

  # Who is running this: field 1 and field 22 of /proc/self/stat (field 2 may hold spaces and ends with the last ')').
  ferry_identity() {
    read -r ferry_stat </proc/self/stat || return 1
    ferry_pid=${ferry_stat%% *}
    set -- ${ferry_stat##*) }
    printf '%s %s %s\n' "$ferry_boot" "$ferry_pid" "${20}"
  }
  ferry_keep() {
    sync "$ferry_dir/$1.new" && mv "$ferry_dir/$1.new" "$ferry_dir/$1" && sync "$ferry_dir"
  }
  ferry_refuse() {
    printf 'refused %s\n' "$1" >"$ferry_dir/exit.new" && ferry_keep exit
    exit 125
  }

  ferry_identity >"$ferry_dir/shim.$$" && ln "$ferry_dir/shim.$$" "$ferry_dir/shim" || exit 125
  rm -f "$ferry_dir/shim.$$"

  # Caught, not ignored: a program would inherit ignored signals, and 'kill 0' in it must not end the shim.
  trap : HUP INT QUIT TERM USR1 USR2

  # In the foreground: sh makes background programs ignore SIGINT, the default stop signal.
  (
    exec 2>&3 3>&-
    IFS=:
    for ferry_procs in $ferry_cgroups; do
      echo 0 >"$ferry_procs" || ferry_refuse "cannot join cgroup $ferry_procs"
    done
    IFS='
 	'
    cd "$ferry_cwd" || ferry_refuse "cannot enter $ferry_cwd"
    ferry_identity >"$ferry_dir/main.new" && ferry_keep main || ferry_refuse 'cannot record the process'
    umask "$ferry_umask"
    unset OLDPWD
    PATH=$ferry_program_path
    exec "$@"
  )
  ferry_status=$?

  if [ ! -e "$ferry_dir/exit" ]; then
    printf '%s\n' "$ferry_status" >"$ferry_dir/exit.new"
    sync "$ferry_dir/exit.new"
    # Again, should a SIGKILL that was meant for the program have met it.
    mv "$ferry_dir/exit.new" "$ferry_dir/exit" || mv "$ferry_dir/exit.new" "$ferry_dir/exit"
    sync "$ferry_dir"
  fi
  exit 0
}
