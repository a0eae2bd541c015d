import { setTimeout as delay } from 'node:timers/promises'
import { StoreUnavailableError } from '../../src/errors.ts'

const PATIENCE_MS = 60_000
const PAUSE_MS = 20

/** Repeats a call until the store answers. */
export async function untilAnswered<T>(call: () => Promise<T>): Promise<T> {
  for (let waitedMs = 0; ; waitedMs += PAUSE_MS) {
    try {
      return await call()
    } catch (error) {
      if (!(error instanceof StoreUnavailableError) || waitedMs > PATIENCE_MS) throw error
      await delay(PAUSE_MS)
    }
  }
}
