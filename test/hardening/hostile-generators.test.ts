import t, { type Test } from 'tap'
import type { ClientErrorCode, StreamContext, StreamOptions } from '../../src/index.ts'
import { eventually } from '../helpers/eventually.ts'
import { LogLines } from '../helpers/log-lines.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { startApp, type App } from '../helpers/start-app.ts'

// JavaScript has no types at run time: every handler here is given to the plugin as it comes.
type Handler = (signal: AbortSignal, context: StreamContext) => unknown

interface Hostile {
  readonly handler: Handler
  /** What the client is told; none where the stream completes. */
  readonly code?: ClientErrorCode
  /** What it receives before that. */
  readonly data?: readonly string[]
  readonly options?: object
}

interface Stage {
  readonly app: App
  readonly clock: ManualClock
  readonly logs: LogLines
}

/** The hostile handler at `/`, a friendly one at `/friendly`; streams are removed as soon as they have no client. */
async function startStage(t: Test, handler: Handler, options: object = {}): Promise<Stage> {
  const clock = new ManualClock()
  const logs = new LogLines()
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/', (_, reply) =>
        reply.sseFromGenerator(handler as never, { streamId: 'hostile', ...options } as StreamOptions)
      )
      fastify.get('/friendly', (_, reply) => reply.sseFromGenerator(() => ['fine']))
    },
    { clock, fastify: logs.fastify, plugin: { bufferTTL: 0, heartbeatInterval: 0, stallTimeout: Infinity } }
  )
  return { app, clock, logs }
}

/** Nothing is left of the stream, and the server serves the next one. */
async function assertRecovered(t: Test, { app, clock }: Stage): Promise<void> {
  await eventually('the registry is empty', () => app.fastify.sseStreams.size === 0)
  const { running, clients, bufferedBytes } = app.fastify.sseStreams.stats()
  t.strictSame({ running, clients, bufferedBytes }, { running: 0, clients: 0, bufferedBytes: 0 })
  const friendly = await app.open('/friendly')
  t.equal(await friendly.waitForEnd(), 'end')
  t.strictSame(friendly.data, ['fine'])
  await eventually('the registry is empty again', () => app.fastify.sseStreams.size === 0)
  t.equal(clock.pending, 0, 'no timer is left')
}

function withGetter(name: string): object {
  return Object.defineProperty(new Error('hidden'), name, {
    get() {
      throw new Error(`the getter of ${name} throws`)
    }
  })
}

function trap(): never {
  throw new Error('a trap throws')
}
const trapdoor: unknown = new Proxy(
  {},
  { get: trap, has: trap, ownKeys: trap, getPrototypeOf: trap, getOwnPropertyDescriptor: trap }
)

const oddThrows: Record<string, () => unknown> = {
  'an error': () => new Error('secret'),
  undefined: () => undefined,
  null: () => null,
  'a string': () => 'secret',
  'a number': () => 0,
  'a BigInt': () => 1n,
  'a symbol': () => Symbol('secret'),
  'a function': () => () => 'secret',
  'a frozen object': () => Object.freeze({ message: 'secret' }),
  'a frozen error': () => Object.freeze(new Error('secret')),
  'an object without a prototype': () => Object.create(null),
  'an error whose message getter throws': () => withGetter('message'),
  'an error whose code getter throws': () => withGetter('code'),
  'an error whose name getter throws': () => withGetter('name'),
  'an error whose stack getter throws': () => withGetter('stack'),
  'an error whose cause is itself': () => {
    const error = new Error('secret')
    error.cause = error
    return error
  },
  'an error with a toJSON that throws': () => Object.assign(new Error('secret'), { toJSON: trap }),
  'a proxy that throws at every touch': () => trapdoor,
  'a promise that is rejected': () => {
    const rejected = Promise.reject(new Error('inner'))
    rejected.catch(() => {})
    return rejected
  }
}

t.test('a generator that throws between events fails its stream, whatever it throws', async (t) => {
  for (const [what, make] of Object.entries(oddThrows)) {
    t.test(what, async (t) => {
      const stage = await startStage(t, async function* () {
        yield 'one'
        throw make()
      })
      const client = await stage.app.open('/')
      t.equal(await client.waitForEnd(), 'end')
      t.strictSame(client.data, ['one'])
      t.notMatch(client.text, 'secret', 'the client learns nothing of it')
      const error = client.events.find(({ event }) => event === 'stream-error')
      t.match(JSON.parse(error?.data ?? 'null'), { code: 'STREAM_FAILED', message: 'Internal Server Error' })
      t.equal(stage.logs.complaints.length, 1, 'one line says what happened')
      t.match(stage.logs.complaints[0], { streamId: 'hostile', msg: /^stream failed/ })
      t.equal(stage.logs.with('stream finished').length, 1)
      await assertRecovered(t, stage)
    })
  }
})

t.test('a handler whose promise rejects fails its stream, whatever it rejects with', async (t) => {
  for (const [what, make] of Object.entries(oddThrows)) {
    t.test(what, async (t) => {
      const stage = await startStage(t, async () => {
        throw make()
      })
      const client = await stage.app.open('/')
      t.equal(await client.waitForEnd(), 'end')
      t.match(client.text, 'STREAM_FAILED')
      t.equal(stage.logs.complaints.length, 1)
      await assertRecovered(t, stage)
    })
  }
})

t.test('a handler that throws synchronously is an ordinary error response, whatever it throws', async (t) => {
  for (const [what, make] of Object.entries(oddThrows)) {
    t.test(what, async (t) => {
      const stage = await startStage(t, () => {
        throw make()
      })
      const client = await stage.app.open('/')
      await client.waitForEnd()
      t.not(client.headers['content-type'], 'text/event-stream')
      t.equal(stage.app.fastify.sseStreams.size, 0)
      t.equal(stage.app.fastify.sseStreams.stats().started, 0)
      await assertRecovered(t, stage)
    })
  }
})

function iteratorOf(iterator: object): Handler {
  return () => ({ [Symbol.asyncIterator]: () => iterator })
}

const done = { done: true, value: undefined }

const hostile: Record<string, Hostile> = {
  'throws before its first event': {
    handler: async function* () {
      throw new Error('early')
    },
    code: 'STREAM_FAILED'
  },
  'throws in its finally after the last event': {
    handler: async function* () {
      try {
        yield 'one'
      } finally {
        // oxlint-disable-next-line no-unsafe-finally -- what users do
        throw new Error('late')
      }
    },
    data: ['one'],
    code: 'STREAM_FAILED'
  },
  'throws an AbortError of its own': {
    handler: async function* () {
      yield 'one'
      throw new DOMException('mine', 'AbortError')
    },
    data: ['one'],
    code: 'STREAM_ABORTED'
  },
  'is synchronous and throws': {
    handler: function* () {
      yield 'one'
      throw new Error('sync')
    },
    data: ['one'],
    code: 'STREAM_FAILED'
  },
  ...Object.fromEntries<Hostile>(
    ([undefined, null, 42, true, {}, Symbol('s'), 1n, () => {}, new Date(0)] as unknown[]).flatMap((value) => [
      [`returns ${String(value)}`, { handler: () => value, code: 'STREAM_FAILED' }],
      [`resolves to ${String(value)}`, { handler: async () => value, code: 'STREAM_FAILED' }]
    ])
  ),
  'returns a proxy that throws at every touch': { handler: () => trapdoor, code: 'STREAM_FAILED' },
  'returns an object whose Symbol.asyncIterator throws': {
    handler: () => ({ [Symbol.asyncIterator]: trap }),
    code: 'STREAM_FAILED'
  },
  'returns an object whose Symbol.asyncIterator returns nothing': {
    handler: () => ({ [Symbol.asyncIterator]: () => undefined }),
    code: 'STREAM_FAILED'
  },
  'returns an object whose Symbol.iterator is no function': {
    handler: () => ({ [Symbol.iterator]: 'iterator' }),
    code: 'STREAM_FAILED'
  },
  'returns a thenable that rejects': {
    handler: () => ({ then: (_: unknown, reject: (error: Error) => void) => reject(new Error('thenable')) }),
    code: 'STREAM_FAILED'
  },
  'returns a thenable whose then throws': {
    handler: () => ({ then: trap }),
    code: 'STREAM_FAILED'
  },
  'returns a thenable that resolves and then rejects and throws': {
    handler: () => ({
      then: (resolve: (value: unknown) => void, reject: (error: Error) => void) => {
        resolve(['one'])
        reject(new Error('too late'))
        throw new Error('too late')
      }
    }),
    data: ['one']
  },
  'is an iterator without next': { handler: iteratorOf({}), code: 'STREAM_FAILED' },
  'is an iterator whose next getter throws': {
    handler: iteratorOf({
      get next() {
        return trap()
      }
    }),
    code: 'STREAM_FAILED'
  },
  'is an iterator whose next throws': { handler: iteratorOf({ next: trap }), code: 'STREAM_FAILED' },
  'is an iterator whose next returns no object': { handler: iteratorOf({ next: () => 7 }), code: 'STREAM_FAILED' },
  'is an iterator whose next resolves to nothing': {
    handler: iteratorOf({ next: async () => undefined }),
    code: 'STREAM_FAILED'
  },
  'is an iterator whose next resolves to null': {
    handler: iteratorOf({ next: async () => null }),
    code: 'STREAM_FAILED'
  },
  'is an iterator whose next resolves to a number': {
    handler: iteratorOf({ next: async () => 7 }),
    code: 'STREAM_FAILED'
  },
  'is an iterator whose next rejects with undefined': {
    handler: iteratorOf({ next: () => Promise.reject(undefined) }),
    code: 'STREAM_FAILED'
  },
  'is an iterator whose result has getters that throw': {
    handler: iteratorOf({
      next: async () => ({
        get done() {
          return trap()
        }
      })
    }),
    code: 'STREAM_FAILED'
  },
  'is an iterator without return that yields junk': {
    handler: iteratorOf({ next: async () => ({ done: false, value: 1 }) }),
    code: 'EVENT_INVALID'
  },
  'is an iterator without throw that yields junk': {
    handler: iteratorOf({ next: async () => ({ done: false, value: 1 }), return: async () => done }),
    code: 'EVENT_INVALID'
  },
  'is an iterator whose throw getter throws': {
    handler: iteratorOf({
      next: async () => ({ done: false, value: 1 }),
      get throw() {
        return trap()
      }
    }),
    code: 'EVENT_INVALID'
  },
  'is an iterator whose throw does not throw but ends': {
    handler: iteratorOf({ next: async () => ({ done: false, value: 1 }), throw: async () => done })
  },
  'is an iterator whose result is done and has a value': {
    handler: iteratorOf({ next: async () => ({ done: true, value: 'ignored' }) })
  },
  'is a synchronous iterable of promises that reject': {
    handler: function* () {
      yield 'one'
      yield Promise.reject(new Error('a rejected value'))
    },
    data: ['one'],
    code: 'STREAM_FAILED'
  },
  'blocks in a microtask loop for a while': {
    handler: async function* () {
      yield 'one'
      for (let i = 0; i < 200_000; i++) await undefined
      yield 'two'
    },
    data: ['one', 'two']
  },
  'blocks the thread for a while': {
    handler: function* () {
      yield 'one'
      for (const until = performance.now() + 50; performance.now() < until;);
      yield 'two'
    },
    data: ['one', 'two']
  }
}

for (const [value, name] of [
  [undefined, 'undefined'],
  [1, 'a number'],
  [null, 'null'],
  [1n, 'a BigInt'],
  [Symbol('s'), 'a symbol'],
  [() => {}, 'a function'],
  [[], 'an array'],
  [{ data: 1n }, 'BigInt data'],
  [{ data: undefined }, 'no data'],
  [{ data: () => {} }, 'a function as data'],
  [{ data: Symbol('s') }, 'a symbol as data'],
  [{ data: { toJSON: trap } }, 'a toJSON that throws'],
  [{ data: { toJSON: () => undefined } }, 'a toJSON that returns nothing'],
  [{ data: trapdoor }, 'a proxy as data'],
  [trapdoor, 'a proxy'],
  [Object.defineProperty({}, 'data', { enumerable: true, get: trap }), 'a data getter that throws'],
  [{ data: 'x', event: { toString: () => 'x' } }, 'an event that is no string'],
  [{ data: 'x', retry: '1' }, 'a retry that is no number']
] as const) {
  hostile[`yields ${name} and does not catch what it is told`] = {
    handler: function* () {
      yield 'one'
      yield value
      yield 'never'
    },
    data: ['one'],
    code: 'EVENT_INVALID'
  }
  hostile[`yields ${name} and goes on`] = {
    handler: function* () {
      yield 'one'
      try {
        yield value
      } catch {
        yield 'caught'
      }
    },
    data: ['one', 'caught']
  }
}

for (const [name, options] of Object.entries({
  'map throws': { map: trap },
  'map throws undefined': {
    map: () => {
      throw undefined
    }
  },
  'map returns nothing': { map: () => undefined },
  'map returns a promise': { map: async (value: string) => value },
  'map throws what throws': { map: () => Reflect.ownKeys(trapdoor as object) }
})) {
  hostile[`${name}, uncaught`] = { handler: () => ['one'], options, code: 'EVENT_INVALID' }
  hostile[`${name}, caught`] = {
    handler: async function* () {
      try {
        yield 'one'
      } catch {}
    },
    options
  }
}

for (const [name, serialize] of Object.entries<() => unknown>({
  throws: trap,
  'returns nothing': () => undefined,
  'returns a number': () => 1,
  'returns a promise': async () => '1'
})) {
  hostile[`serialize ${name}`] = {
    handler: async function* () {
      try {
        yield { data: 1 }
      } catch {
        yield 'caught'
      }
    },
    options: { serialize },
    data: ['caught']
  }
}

t.test('a generator that', async (t) => {
  for (const [what, { handler, code, data = [], options }] of Object.entries(hostile)) {
    t.test(what, async (t) => {
      const stage = await startStage(t, handler, options)
      const client = await stage.app.open('/')
      t.equal(await client.waitForEnd(), 'end')
      t.strictSame(client.data, data)
      const error = client.events.find(({ event }) => event === 'stream-error')
      t.equal((error && (JSON.parse(error.data) as { code: string }).code) ?? undefined, code)
      const outcome = code === undefined ? 'completed' : 'failed'
      t.equal(client.events.at(-1)?.data, JSON.stringify({ outcome }))
      t.equal(stage.logs.complaints.length, code === undefined ? 0 : 1, 'one line says what went wrong')
      t.equal(stage.logs.with('stream finished').length, 1)
      t.match(stage.logs.with('stream finished')[0], { streamId: 'hostile', outcome, level: 30 })
      await assertRecovered(t, stage)
    })
  }
})

t.test('an aborted generator that', async (t) => {
  interface Aborted {
    readonly handler: Handler
    /** The complaints in the log. */
    readonly complaints?: readonly string[]
    /** Whether it is let go only by `abortTimeout`. */
    readonly isStuck?: boolean
  }
  const LET_GO = 'the generator did not close within abortTimeout and was let go'
  const THREW = /^the generator threw while it was closed/

  const never = new Promise<never>(() => {})
  const aborted = (signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => signal.addEventListener('abort', () => resolve()))

  const cases: Record<string, Aborted> = {
    'stops as it should': {
      handler: async function* (signal) {
        yield 'one'
        await aborted(signal)
        signal.throwIfAborted()
      }
    },
    'throws something else': {
      handler: async function* (signal) {
        yield 'one'
        await aborted(signal)
        throw new Error('while closing')
      },
      complaints: [String(THREW)]
    },
    'throws in its finally': {
      handler: async function* (signal) {
        try {
          yield 'one'
          await aborted(signal)
          yield 'late'
        } finally {
          // oxlint-disable-next-line no-unsafe-finally -- what users do
          throw new Error('while closing')
        }
      },
      complaints: [String(THREW)]
    },
    'yields on for a while': {
      handler: async function* (signal) {
        yield 'one'
        await aborted(signal)
        for (let i = 0; i < 10; i++) yield 'late'
      }
    },
    'yields from its finally': {
      handler: async function* (signal) {
        try {
          yield 'one'
          await aborted(signal)
        } finally {
          yield 'late'
          yield 'later'
        }
      }
    },
    'waits for a second abort in its finally': {
      handler: async function* (signal) {
        try {
          yield 'one'
          await aborted(signal)
        } finally {
          await aborted(signal)
        }
      },
      isStuck: true,
      complaints: [LET_GO]
    },
    'ignores its signal for ever': {
      handler: async function* () {
        yield 'one'
        await never
      },
      isStuck: true,
      complaints: [LET_GO]
    },
    'never leaves its finally': {
      handler: async function* (signal) {
        try {
          yield 'one'
          await aborted(signal)
        } finally {
          await never
        }
      },
      isStuck: true,
      complaints: [LET_GO]
    },
    'is an iterator without return': {
      handler: () => ({ [Symbol.asyncIterator]: () => ({ next: once('one') }) })
    },
    'is an iterator whose return throws': {
      handler: withReturn(() => trap()),
      complaints: [String(THREW)]
    },
    'is an iterator whose return getter throws': {
      handler: () => ({
        [Symbol.asyncIterator]: () => ({
          next: once('one'),
          get return() {
            return trap()
          }
        })
      }),
      complaints: [String(THREW)]
    },
    'is an iterator whose return rejects with undefined': {
      handler: withReturn(() => Promise.reject(undefined)),
      complaints: [String(THREW)]
    },
    'is an iterator whose return never settles': {
      handler: withReturn(() => never),
      isStuck: true,
      complaints: [LET_GO]
    },
    'is an iterator whose return yields on': {
      handler: withReturn(async () => ({ done: false, value: 'late' }))
    },
    'is an iterator whose return is a thenable that throws': {
      handler: withReturn(() => ({ then: trap })),
      complaints: [String(THREW)]
    }
  }

  /** Yields `value` at once, and then nothing for ever. */
  function once(value: string): () => Promise<unknown> {
    let isFirst = true
    return () => {
      if (!isFirst) return never
      isFirst = false
      return Promise.resolve({ done: false, value })
    }
  }

  function withReturn(close: () => unknown): Handler {
    return () => ({ [Symbol.asyncIterator]: () => ({ next: once('one'), return: close }) })
  }

  for (const [what, { handler, complaints = [], isStuck = false }] of Object.entries(cases)) {
    t.test(what, async (t) => {
      const stage = await startStage(t, handler)
      const { app, clock, logs } = stage
      const client = await app.open('/')
      await client.waitForData(1)
      t.equal(await app.fastify.sseStreams.abort('hostile', { reason: 'a private reason' }), true)
      t.equal(await client.waitForEnd(), 'end', 'the client does not wait for the generator')
      t.strictSame(client.data, ['one'], 'what it yields after the abort is discarded')
      t.match(client.text, 'STREAM_ABORTED')
      t.notMatch(client.text, 'private')
      if (isStuck) {
        await eventually('the client is gone', () => app.fastify.sseStreams.stats().clients === 0)
        t.equal(logs.complaints.length, 0, 'nobody complains before abortTimeout')
        t.equal(app.fastify.sseStreams.size, 1)
        clock.advance(1_000)
      }
      await assertRecovered(t, stage)
      t.equal(logs.complaints.length, complaints.length, 'one line says what happened')
      t.equal(logs.with('stream finished').filter(({ streamId }) => streamId === 'hostile').length, 1)
      t.match(
        logs.complaints.map(({ msg }) => msg),
        complaints.map((complaint) => (complaint === LET_GO ? LET_GO : THREW))
      )
    })
  }
})

t.test('a generator that aborts its own stream', async (t) => {
  for (const [what, isSync] of [
    ['synchronously', true],
    ['asynchronously', false]
  ] as const) {
    t.test(what, async (t) => {
      let app: App | undefined
      const abort = (): void => void app?.fastify.sseStreams.abort('hostile')
      const stage = await startStage(
        t,
        isSync
          ? function* () {
              yield 'one'
              abort()
              yield 'late'
            }
          : async function* () {
              yield 'one'
              abort()
              yield 'late'
            }
      )
      app = stage.app
      const client = await app.open('/')
      t.equal(await client.waitForEnd(), 'end')
      t.strictSame(client.data, ['one'])
      t.match(client.text, 'STREAM_ABORTED')
      await assertRecovered(t, stage)
    })
  }
})

t.test('a client that leaves at any moment of a hostile generator leaves nothing behind', async (t) => {
  for (const [what, { handler, options }] of Object.entries(hostile)) {
    t.test(what, async (t) => {
      const stage = await startStage(t, handler, options)
      const client = await stage.app.open('/')
      await client.drop()
      await assertRecovered(t, stage)
    })
  }
})
