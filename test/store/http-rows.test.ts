import { fileURLToPath } from 'node:url'
import t from 'tap'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'

// What clients see of one instance they see of several: the tests of HTTP once more, with requests that go to one instance
// after the other, and with clients that come back to another one.

const FILES = [
  'http/resume.test.ts',
  'http/wire.test.ts',
  'http/control-events-off.test.ts',
  'http/refused.test.ts',
  'http/life.test.ts',
  'http/api.test.ts',
  'prefix-and-resume.test.ts',
  'hardening/whose-stream.test.ts'
]

if (hasRedis(t)) {
  const { port } = await RedisServer.start(t)
  for (const file of FILES) {
    const path = fileURLToPath(new URL(`../${file}`, import.meta.url))
    await t.spawn(
      process.execPath,
      ['--import=tsx', path],
      { env: { ...process.env, RSSE_TEST_REDIS_PORT: String(port) } },
      file
    )
  }
}
