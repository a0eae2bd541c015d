import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { hasRedis, RedisServer } from './redis-server.ts'

/**
 * Runs test files once more, with several instances that share a store: requests go to one after the other, and clients
 * that come back land on another one. Paths are relative to `test`.
 */
export async function runAgain(t: Test, files: readonly string[]): Promise<void> {
  if (!hasRedis(t)) return
  // One after the other, on a machine that may do other things as well.
  t.setTimeout(300_000)
  const { port } = await RedisServer.start(t)
  const env = { ...process.env, RSSE_TEST_REDIS_PORT: String(port) }
  for (const file of files) {
    const path = fileURLToPath(new URL(`../${file}`, import.meta.url))
    await t.spawn(process.execPath, ['--import=tsx', path], { env }, file)
  }
}
