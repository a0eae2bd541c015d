import { Redis } from 'ioredis'
import { createClientPool, createSentinel } from 'redis'
import { test } from 'tap'
import { isRefusal, StoreInvalidError, StoreUnavailableError } from '../../src/errors.ts'
import { ioredisMaker } from '../../src/store/ioredis.ts'
import { judgeProbe, majorOf } from '../../src/store/probe.ts'
import { resolveRedisOptions } from '../../src/store/redis-options.ts'
import { RedisStore } from '../../src/store/redis-store.ts'
import { resolvePluginOptions } from '../../src/settings.ts'
import { redisStore, type RedisClient, type RedisStoreOptions, type StreamStore } from '../../src/store/redis.ts'
import { eventually } from '../helpers/eventually.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { createRecordingLog } from '../helpers/recording-log.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import { address, libraries, open, openAndClose } from '../helpers/redis-store.ts'
import { SilentServer } from '../helpers/silent-server.ts'
import { startStoreProcess } from '../helpers/store-process.ts'

const client = new Redis({ lazyConnect: true })

for (const [name, value, allowed] of [
  ['prefix', '', /1 to 64 characters/],
  ['prefix', 'a'.repeat(65), /1 to 64 characters/],
  ['prefix', 'a{b}', /1 to 64 characters/],
  ['prefix', 1, /1 to 64 characters/],
  ['lease', 299, /300…2147483647/],
  ['lease', 1_000.5, /300…2147483647/],
  ['lease', Infinity, /300…2147483647/],
  ['lease', '15000', /300…2147483647/],
  ['pollInterval', 49, /50…2147483647/],
  ['pollInterval', null, /50…2147483647/],
  ['keyPrefix', 'app', /there are: prefix, lease, pollInterval/]
] as const) {
  test(`${name} cannot be ${JSON.stringify(value)}`, async (t) => {
    const options = { [name]: value } as RedisStoreOptions
    t.throws(() => redisStore(client, options), { code: 'FST_ERR_RSSE_OPTION_INVALID', message: allowed })
    t.throws(() => redisStore(client, options), { message: `"${name}"` })
  })
}

test('options have defaults and bounds', async (t) => {
  const [byDefault, least] = [
    redisStore(client),
    redisStore(client, { prefix: 'a:B_c-1', lease: 300, pollInterval: 50 })
  ]
  t.match(byDefault, { leaseMs: 15_000, pollMs: 2_000 })
  t.match(least, { leaseMs: 300, pollMs: 50 })
  t.match(redisStore(client, { prefix: undefined, lease: undefined, pollInterval: undefined }), { leaseMs: 15_000 })
  t.match(byDefault.instance, /^[A-Za-z0-9_-]{16}$/)
  t.not(byDefault.instance, least.instance)
})

for (const [what, value] of [
  ['nothing', undefined],
  ['null', null],
  ['an address', 'redis://127.0.0.1'],
  ['options', { host: '127.0.0.1' }],
  ['a class', Redis],
  ['a pool of node-redis', createClientPool()],
  [
    'a Sentinel client of node-redis',
    createSentinel({ name: 'main', sentinelRootNodes: [{ host: '127.0.0.1', port: 1 }] })
  ],
  ['an older node-redis', { sendCommand: () => {}, duplicate: () => {}, options: {}, isReady: true }]
] as const) {
  test(`${what} is no client`, async (t) => {
    const wrong = value as unknown as RedisClient
    t.throws(() => redisStore(wrong), { code: 'FST_ERR_RSSE_STORE_INVALID', message: /Give a client or a Cluster/ })
  })
}

test('a client needs not be connected, and is not by the store', async (t) => {
  for (const [, makeClient] of libraries) {
    const template = makeClient(1) as { status?: string; isOpen?: boolean }
    redisStore(template as RedisClient)
    t.notOk(template.isOpen)
    t.notMatch(template.status, /connect|ready/)
  }
})

for (const [version, major] of [
  ['7.0.15', 7],
  ['7.2.4', 7],
  ['8.0.0-rc1', 8],
  ['10.1', 10],
  ['', 0],
  ['unstable', 0]
] as const) {
  test(`version "${version}" is ${major === 0 ? 'none' : major}`, async (t) => t.equal(majorOf(version), major))
}

test('a server of before 7 will not do, it does not say its version to scripts', async (t) => {
  for (const version of ['', '6.2.14']) {
    t.throws(() => judgeProbe([Buffer.from(version), []], 'rsse'), {
      code: 'FST_ERR_RSSE_STORE_INVALID',
      message: /Use Redis 7 or newer, or Valkey 7.2 or newer/
    })
  }
  judgeProbe([Buffer.from('7.0.0'), []], 'rsse')
})

test('a store serves one registration', async (t) => {
  if (!hasRedis(t)) return
  const server = await RedisServer.start(t)
  const { store, host } = await open(t, new Redis({ port: server.port, lazyConnect: true }))
  await t.rejects(store.open(host), { code: 'FST_ERR_RSSE_STORE_INVALID', message: /Make one for each/ })
  t.equal(await store.read(address, 0, 0), undefined, 'and goes on with that')
})

test('a server that hangs keeps nobody from starting, however long the lease is', async (t) => {
  const { port } = await SilentServer.start(t)
  const client = new Redis({ port, lazyConnect: true })
  const clock = new ManualClock()
  const store = new RedisStore(ioredisMaker(client), resolveRedisOptions({ lease: 60_000 }), 'instance', clock)
  t.teardown(() => store.close(0))
  const { log } = createRecordingLog()
  const opened = store.open({ log, onStop: () => {}, onReturn: () => {} })
  clock.advance(5_000)
  await opened
  await t.rejects(
    store.open({ log, onStop: () => {}, onReturn: () => {} }),
    /serves another registration/,
    'it is open'
  )
})

test('what is closed while it connects leaves no connection behind', async (t) => {
  if (!hasRedis(t)) return
  const server = await RedisServer.start(t)
  for (const [library, createClient] of libraries) {
    await openAndClose(t, () => createClient(server.port))
    await eventually(`nobody but us is connected (${library})`, async () => (await server.connections()) === 1)
    t.pass(library)
  }
})

test('a client is no store', async (t) => {
  const store = client as unknown as StreamStore
  t.throws(() => resolvePluginOptions({ store }), { code: 'FST_ERR_RSSE_OPTION_INVALID', message: /redisStore\(\)/ })
})

test('a store that does not answer is a refusal, one that will not do is not', async (t) => {
  t.equal(isRefusal(new StoreUnavailableError({ cause: 'it hangs' })), true)
  t.equal(isRefusal(new StoreInvalidError('it is too old.')), false)
})

for (const [library] of libraries) {
  test(`${library}: a process with a store ends by itself after close()`, async (t) => {
    if (!hasRedis(t)) return
    const server = await RedisServer.start(t)
    for (const state of ['well', 'hung', 'gone'] as const) {
      const child = startStoreProcess(t, library, [server.port])
      await eventually('the store is open', () => child.output() === 'open\n')
      if (state === 'hung') server.hang()
      if (state === 'gone') await server.stop()
      child.goOn()
      t.strictSame(await child.exited, [0, null], state)
      const outcome = state === 'well' ? 'fulfilled' : 'rejected'
      t.equal(child.output(), `open\nclosed ${outcome} ${outcome}\n`)
      if (state === 'hung') server.goOn()
    }
  })
}
