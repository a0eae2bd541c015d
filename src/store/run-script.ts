import type { Place } from './address.ts'
import { replyCode, type Connection } from './connection.ts'
import type { Script } from './scripts.ts'

export type Argument = string | Buffer | number

/** Runs a script on the keys of a place, and sends its text along where the server does not know it. */
export async function runScript(
  connection: Connection,
  script: Script,
  place: Place,
  args: readonly Argument[]
): Promise<unknown> {
  try {
    return await connection.send(place.record, ['EVALSHA', script.sha, ...keysAndArguments(place, args)])
  } catch (error) {
    if (replyCode(error) !== 'NOSCRIPT') throw error
    return evaluate(connection, script, place, args)
  }
}

/** Runs a script with its text, whether or not the server knows it. */
export function evaluate(
  connection: Connection,
  script: Script,
  place: Place,
  args: readonly Argument[]
): Promise<unknown> {
  return connection.send(place.record, ['EVAL', script.text, ...keysAndArguments(place, args)])
}

function keysAndArguments({ record, log }: Place, args: readonly Argument[]): (string | Buffer)[] {
  return ['2', record, log, ...args.map((arg) => (typeof arg === 'number' ? String(arg) : arg))]
}
