import { setImmediate as nextImmediate } from 'node:timers/promises'

/** Lets the current turn of the event loop end, and the one that its work may have asked for. */
export async function turn(): Promise<void> {
  await nextImmediate()
  await nextImmediate()
}

/** A condition that needs this many turns never comes true. */
const MAX_TURNS = 20_000

/** Turns until `condition` holds. Counts turns, not time: what it waits for is work, and work is done in turns. */
export async function turnsUntil(what: string, condition: () => boolean): Promise<void> {
  for (let turns = 0; !condition(); turns++) {
    if (turns === MAX_TURNS) throw new Error(`Waited for ${what} in vain`)
    await nextImmediate()
  }
}
