import { test } from 'tap'
import {
  assertHandler,
  assertOwner,
  assertStreamId,
  resolveAttachCall,
  resolvePluginOptions,
  resolveStreamCall
} from '../src/settings.ts'

const MIB = 1024 * 1024
const MAX = 2_147_483_647

const plugin = resolvePluginOptions()

type Resolve = (options: object) => unknown

// Where an option may stand.
const inPlugin: Resolve = (options) => resolvePluginOptions(options)
const inCall: Resolve = (options) => resolveStreamCall(options, plugin)
const inAttach: Resolve = (options) => resolveAttachCall(options, plugin)

interface Kind {
  readonly right: readonly unknown[]
  readonly wrong: readonly unknown[]
  readonly allowed: RegExp
}

const NEVER_RIGHT = [null, -1, 1.5, NaN, -Infinity, '1', '', true, 1n, [], {}, () => {}, Symbol('x')]

const milliseconds: Kind = {
  right: [0, 1, MAX],
  wrong: [...NEVER_RIGHT, false, Infinity, MAX + 1],
  allowed: /milliseconds, an integer in 0…2147483647\./
}
const millisecondsOrInfinity: Kind = {
  right: [0, 1, MAX, Infinity],
  wrong: [...NEVER_RIGHT, false, MAX + 1],
  allowed: /milliseconds, an integer in 0…2147483647, or Infinity\./
}
const millisecondsOrFalse: Kind = {
  right: [0, 1, MAX, false],
  wrong: [...NEVER_RIGHT, Infinity, MAX + 1],
  allowed: /milliseconds, an integer in 0…2147483647, or false\./
}
const count: Kind = {
  right: [1, 2, Number.MAX_SAFE_INTEGER],
  wrong: [...NEVER_RIGHT, false, 0, Infinity, Number.MAX_SAFE_INTEGER + 1],
  allowed: /an integer of at least 1\./
}
const countOrInfinity: Kind = {
  right: [1, 2, Infinity],
  wrong: [...NEVER_RIGHT, false, 0, Number.MAX_SAFE_INTEGER + 1],
  allowed: /an integer of at least 1, or Infinity\./
}
const aFunction: Kind = {
  right: [() => 'x', async () => 'x'],
  wrong: [null, 'x', 1, true, false, {}, []],
  allowed: /a function/
}
const oneOf = (...values: readonly unknown[]): Kind => ({
  right: values,
  wrong: [null, '', 'other', 0, 1, NaN, {}, [], () => {}, Infinity, new String(values[0])],
  allowed: new RegExp(values.map(String).join('.*'))
})

const OPTIONS: readonly (readonly [name: string, kind: Kind, places: readonly Resolve[]])[] = [
  ['bufferTTL', milliseconds, [inPlugin, inCall]],
  ['orphanTimeout', millisecondsOrInfinity, [inPlugin, inCall]],
  ['bufferSize', count, [inPlugin, inCall]],
  ['bufferBytes', count, [inPlugin, inCall]],
  ['maxEventSize', { ...count, right: [1, 2, MIB] }, [inPlugin, inCall]],
  ['backpressure', oneOf('fastest', 'slowest', 'none'), [inPlugin, inCall]],
  ['serialize', aFunction, [inPlugin, inCall]],
  ['heartbeatInterval', milliseconds, [inPlugin, inCall, inAttach]],
  ['stallTimeout', millisecondsOrInfinity, [inPlugin, inCall, inAttach]],
  ['maxConnectionAge', millisecondsOrInfinity, [inPlugin, inCall, inAttach]],
  ['retry', millisecondsOrFalse, [inPlugin, inCall, inAttach]],
  ['controlEvents', oneOf(true, false), [inPlugin, inCall, inAttach]],
  ['maxTotalBufferBytes', count, [inPlugin]],
  ['maxActiveStreams', count, [inPlugin]],
  ['whenFull', oneOf('evict', 'reject'), [inPlugin]],
  ['maxStreamsPerOwner', countOrInfinity, [inPlugin]],
  ['maxClientsPerStream', count, [inPlugin]],
  ['drainTimeout', milliseconds, [inPlugin]],
  ['abortTimeout', milliseconds, [inPlugin]],
  ['owner', aFunction, [inPlugin]],
  ['map', aFunction, [inCall]],
  [
    'signal',
    {
      right: [new AbortController().signal],
      wrong: [null, {}, { aborted: false }, 'x', new AbortController(), true],
      allowed: /an AbortSignal/
    },
    [inCall]
  ],
  ['onLost', oneOf('end', 'restart'), [inCall]],
  ['from', oneOf('start', 'live'), [inCall, inAttach]],
  ['missing', oneOf(404, 204), [inAttach]],
  ['finished', oneOf('replay', 204), [inAttach]]
]

/** A value as a message shows it, as far as this test has to know. */
function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value)
  return typeof value === 'number' || typeof value === 'boolean' || value === null ? String(value) : ''
}

for (const [name, { right, wrong, allowed }, places] of OPTIONS) {
  test(`${name} takes what is allowed`, async (t) => {
    for (const resolve of places) {
      for (const value of [...right, undefined]) t.doesNotThrow(() => resolve({ [name]: value }))
    }
  })

  test(`${name} refuses anything else, and says what it is, what it got and what is allowed`, async (t) => {
    for (const resolve of places) {
      for (const value of wrong) {
        try {
          resolve({ [name]: value })
          t.fail(`${name} took ${shown(value)}`)
        } catch (error) {
          const { code, statusCode, message } = error as { code: string; statusCode: number; message: string }
          t.equal(code, 'FST_ERR_RSSE_OPTION_INVALID')
          t.equal(statusCode, 500)
          t.ok(message.startsWith(`Invalid option "${name}": received ${shown(value)}`), message)
          t.match(message, allowed)
        }
      }
    }
  })
}

test('an unknown option is refused by its name, with those that exist', async (t) => {
  for (const resolve of [inPlugin, inCall, inAttach]) {
    for (const name of ['bufferTtl', 'toString', 'constructor', '']) {
      t.throws(() => resolve({ [name]: 1 }), {
        code: 'FST_ERR_RSSE_OPTION_INVALID',
        message: new RegExp(
          `^Invalid option "${name}": received 1. There is no such option; there are: .*heartbeatInterval`
        )
      })
    }
  }
  t.throws(() => inPlugin(JSON.parse('{"__proto__": 1}') as object), { message: /"__proto__"/ })
})

test('an unknown option is refused even when it is undefined', async (t) => {
  t.throws(() => inPlugin({ bufferTtl: undefined }), { code: 'FST_ERR_RSSE_OPTION_INVALID' })
})

test('an option of another place is unknown here', async (t) => {
  for (const [resolve, options] of [
    [inPlugin, { streamId: 'a' }],
    [inPlugin, { map: String }],
    [inCall, { maxActiveStreams: 1 }],
    [inCall, { missing: 404 }],
    [inAttach, { bufferTTL: 1 }],
    [inAttach, { onLost: 'end' }],
    [inAttach, { streamId: 'a' }]
  ] as const) {
    t.throws(() => resolve(options), { code: 'FST_ERR_RSSE_OPTION_INVALID', message: /There is no such option/ })
  }
})

test('options that are no object are refused', async (t) => {
  for (const options of [null, 1, 'x', true]) {
    for (const resolve of [inPlugin, inCall, inAttach]) {
      t.throws(() => resolve(options as unknown as object), {
        code: 'FST_ERR_RSSE_OPTION_INVALID',
        message: /"options"/
      })
    }
  }
})

test("Fastify's own options of a registration pass", async (t) => {
  t.doesNotThrow(() => inPlugin({ prefix: '/a', logLevel: 'warn', logSerializers: {} }))
})

test('the defaults are those of the contract', async (t) => {
  t.strictSame(plugin, {
    stream: {
      ttlMs: 600_000,
      orphanTimeoutMs: 600_000,
      maxEvents: 10_000,
      maxBytes: 8 * MIB,
      maxEventBytes: MIB,
      backpressure: 'fastest'
    },
    client: {
      heartbeatMs: 15_000,
      stallTimeoutMs: 30_000,
      maxAgeMs: Infinity,
      retryMs: 3_000,
      hasControlEvents: true
    },
    registry: {
      maxTotalBytes: 256 * MIB,
      maxStreams: 1_000,
      whenFull: 'evict',
      maxStreamsPerOwner: Infinity,
      maxClientsPerStream: 1_000,
      drainTimeoutMs: 0,
      abortTimeoutMs: 1_000
    },
    serialize: JSON.stringify,
    store: undefined,
    ownerOf: undefined
  })
})

test('a call without options has those of the registration', async (t) => {
  const settings = resolvePluginOptions({ bufferTTL: 1, retry: false, serialize: String })
  const call = resolveStreamCall(undefined, settings)
  t.equal(call.stream, settings.stream)
  t.equal(call.client, settings.client)
  t.equal(call.encoding.serialize, String)
  t.strictSame(resolveStreamCall({}, settings), call)
  t.strictSame(resolveAttachCall(undefined, settings), {
    owner: undefined,
    from: 'start',
    lastEventId: undefined,
    missing: 404,
    finished: 'replay',
    client: settings.client
  })
})

test('an option of a call wins over the one of the registration, and undefined does not', async (t) => {
  const settings = resolvePluginOptions({ bufferTTL: 1, retry: 2, orphanTimeout: 3 })
  const call = resolveStreamCall({ bufferTTL: 10, retry: false, orphanTimeout: undefined }, settings)
  t.equal(call.stream.ttlMs, 10)
  t.equal(call.client.retryMs, false)
  t.equal(call.stream.orphanTimeoutMs, 3)
})

test('maxEventSize shrinks to bufferBytes where it is not given', async (t) => {
  t.equal(resolvePluginOptions({ bufferBytes: 1_000 }).stream.maxEventBytes, 1_000)
  t.equal(resolvePluginOptions({ bufferBytes: 16 * MIB }).stream.maxEventBytes, MIB)
  t.equal(resolveStreamCall({ bufferBytes: 500 }, plugin).stream.maxEventBytes, 500)
})

test('a maxEventSize above bufferBytes is refused', async (t) => {
  t.equal(resolvePluginOptions({ bufferBytes: 100, maxEventSize: 100 }).stream.maxEventBytes, 100)
  const expected = { code: 'FST_ERR_RSSE_OPTION_INVALID', message: /"maxEventSize": received 101.*bufferBytes \(100\)/ }
  t.throws(() => resolvePluginOptions({ bufferBytes: 100, maxEventSize: 101 }), expected)
  t.throws(() => resolveStreamCall({ bufferBytes: 100, maxEventSize: 101 }, plugin), expected)
  t.throws(() => resolveStreamCall({ maxEventSize: 101 }, resolvePluginOptions({ bufferBytes: 100 })), expected)
})

test('a streamId has 1 to 256 characters that are safe in a URL and in a header', async (t) => {
  for (const streamId of ['a', 'A-_9', 'x'.repeat(256)]) t.doesNotThrow(() => inCall({ streamId }))
  for (const streamId of ['', 'x'.repeat(257), 'a b', 'a\n', 'a/b', 'ä', 'a.b', 1, null, {}, ['a']]) {
    t.throws(() => inCall({ streamId }), { code: 'FST_ERR_RSSE_STREAM_ID_INVALID', statusCode: 400 })
    t.throws(() => assertStreamId(streamId), { code: 'FST_ERR_RSSE_STREAM_ID_INVALID' })
  }
})

test('an owner of a call is a string that is not empty', async (t) => {
  for (const resolve of [inCall, inAttach]) {
    t.doesNotThrow(() => resolve({ owner: 'a b\n\0' }))
    for (const owner of ['', null, 1, {}, () => 'x']) {
      t.throws(() => resolve({ owner }), { code: 'FST_ERR_RSSE_OWNER_INVALID', statusCode: 500 })
    }
  }
  t.throws(() => assertOwner(undefined), { code: 'FST_ERR_RSSE_OWNER_INVALID' })
})

test('a lastEventId may be any junk', async (t) => {
  for (const lastEventId of [null, 1, {}, ['a'], 'junk', Symbol('x')]) {
    for (const resolve of [inCall, inAttach]) t.doesNotThrow(() => resolve({ lastEventId }))
  }
})

test('a handler is a function', async (t) => {
  t.doesNotThrow(() => assertHandler(async function* () {}))
  for (const handler of [undefined, null, {}, 'x', [1]]) {
    t.throws(() => assertHandler(handler), { code: 'FST_ERR_RSSE_OPTION_INVALID', message: /"handler"/ })
  }
})
