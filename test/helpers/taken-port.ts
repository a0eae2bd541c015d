import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import type { Test } from 'tap'

/** A port of 127.0.0.1 that somebody else listens on, until the end of the test. */
export async function takenPort(t: Test): Promise<number> {
  const taken = createServer().listen(0, '127.0.0.1')
  t.teardown(() => taken.close())
  await once(taken, 'listening')
  return (taken.address() as AddressInfo).port
}
