import type { Place } from './address.ts'
import { replyCode, type Connection } from './connection.ts'
import type { Script } from './scripts.ts'

export type Argument = string | Buffer | number

/** Runs a script on the keys of some places, and sends its text along where the server does not know it. */
export async function runScript(
  connection: Connection,
  script: Script,
  places: readonly Place[],
  args: readonly Argument[]
): Promise<unknown> {
  try {
    return await send(connection, ['EVALSHA', script.sha], places, args)
  } catch (error) {
    if (replyCode(error) !== 'NOSCRIPT') throw error
    return evaluate(connection, script, places, args)
  }
}

/** Runs a script with its text, whether or not the server knows it. */
export function evaluate(
  connection: Connection,
  script: Script,
  places: readonly Place[],
  args: readonly Argument[]
): Promise<unknown> {
  return send(connection, ['EVAL', script.text], places, args)
}

function send(
  connection: Connection,
  command: (string | Buffer)[],
  places: readonly Place[],
  args: readonly Argument[]
): Promise<unknown> {
  command.push(String(2 * places.length))
  for (const { record, log } of places) command.push(record, log)
  for (const arg of args) command.push(typeof arg === 'number' ? String(arg) : arg)
  return connection.send(places[0]?.record ?? '', command)
}
