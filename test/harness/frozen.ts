/** Does something while these processes are stopped in their tracks, so that nothing is half written. */
export function withFrozen<T>(pids: readonly number[], action: () => T): T {
  const send = (signal: NodeJS.Signals) => {
    for (const pid of pids) {
      try {
        process.kill(pid, signal);
      } catch {
        // It ended meanwhile.
      }
    }
  };
  send('SIGSTOP');
  try {
    return action();
  } finally {
    send('SIGCONT');
  }
}
