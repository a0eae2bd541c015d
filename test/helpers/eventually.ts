import { setTimeout as delay } from 'node:timers/promises'

const PATIENCE_MS = 20_000
const PAUSE_MS = 2

/** Resolves once `condition` holds: for what other processes and the kernel do, which no event announces. */
export async function eventually(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let waitedMs = 0; !(await condition()); waitedMs += PAUSE_MS) {
    if (waitedMs > PATIENCE_MS) throw new Error(`Waited for this in vain: ${what}`)
    await delay(PAUSE_MS)
  }
}
