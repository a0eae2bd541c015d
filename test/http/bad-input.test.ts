import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import streamPlugin, { type StreamOptions, type StreamPluginOptions } from '../../src/index.ts'
import { numbers } from '../helpers/numbers.ts'
import type { SseClient, SseRequest } from '../helpers/sse-client.ts'
import { startApp, type App } from '../helpers/start-app.ts'

const MAX = 2_147_483_647
const noMilliseconds = [-1, 1.5, NaN, MAX + 1, '1000', null, true, {}]
const noCount = [0, -1, 1.5, NaN, '10', null, Infinity]
const noFunction = ['JSON', {}, null, 1]

const badStreamOptions: Record<string, unknown[]> = {
  bufferTTL: [...noMilliseconds, Infinity],
  orphanTimeout: [...noMilliseconds, -Infinity],
  bufferSize: noCount,
  bufferBytes: noCount,
  maxEventSize: noCount,
  backpressure: ['fast', '', null, true],
  serialize: noFunction
}

const badClientOptions: Record<string, unknown[]> = {
  heartbeatInterval: [...noMilliseconds, Infinity],
  stallTimeout: noMilliseconds,
  maxConnectionAge: noMilliseconds,
  retry: [-1, 1.5, NaN, MAX + 1, '1000', null, true, Infinity],
  controlEvents: ['false', 0, null]
}

const badPluginOptions: Record<string, unknown[]> = {
  ...badStreamOptions,
  ...badClientOptions,
  maxTotalBufferBytes: noCount,
  maxActiveStreams: noCount,
  whenFull: ['drop', '', null],
  maxStreamsPerOwner: [0, -1, 1.5, NaN, '10', null],
  maxClientsPerStream: noCount,
  drainTimeout: [...noMilliseconds, Infinity],
  abortTimeout: [...noMilliseconds, Infinity],
  owner: ['ada', {}, null]
}

const badCallOptions: Record<string, unknown[]> = {
  ...badClientOptions,
  from: ['end', 0, null, true],
  lastEventID: ['misspelled']
}

async function register(options: object): Promise<void> {
  const fastify = Fastify()
  fastify.register(streamPlugin, options)
  await fastify.ready()
  await fastify.close()
}

t.test('a wrong option of the plugin', async (t) => {
  for (const [name, values] of Object.entries(badPluginOptions)) {
    t.test(`${name} throws a coded error that names it, the value and what is allowed`, async (t) => {
      for (const value of values) {
        await t.rejects(register({ [name]: value }), {
          code: 'FST_ERR_RSSE_OPTION_INVALID',
          statusCode: 500,
          message: new RegExp(`^Invalid option "${name}": received .+\\. Use .+\\.$`)
        })
      }
    })
  }

  t.test('an unknown name throws', async (t) => {
    for (const name of ['bufferTtl', 'ttl', 'streamId', 'onLost', 'toString', '__proto']) {
      await t.rejects(register({ [name]: 1 }), {
        code: 'FST_ERR_RSSE_OPTION_INVALID',
        message: new RegExp(`"${name}"`)
      })
    }
  })

  t.test("Fastify's own options pass", async (t) => {
    await t.resolves(register({ prefix: '/api', logLevel: 'warn', logSerializers: {} }))
  })

  t.test('undefined is the default', async (t) => {
    await t.resolves(register(Object.fromEntries(Object.keys(badPluginOptions).map((name) => [name, undefined]))))
  })

  t.test('the bounds themselves pass', async (t) => {
    const lowest: StreamPluginOptions = {
      bufferTTL: 0,
      orphanTimeout: 0,
      bufferSize: 1,
      bufferBytes: 1,
      maxEventSize: 1,
      maxTotalBufferBytes: 1,
      maxActiveStreams: 1,
      maxStreamsPerOwner: 1,
      maxClientsPerStream: 1,
      heartbeatInterval: 0,
      stallTimeout: 0,
      maxConnectionAge: 0,
      retry: 0,
      drainTimeout: 0,
      abortTimeout: 0
    }
    await t.resolves(register(lowest))
    const highest: StreamPluginOptions = {
      bufferTTL: MAX,
      orphanTimeout: Infinity,
      maxStreamsPerOwner: Infinity,
      heartbeatInterval: MAX,
      stallTimeout: Infinity,
      maxConnectionAge: Infinity,
      retry: MAX
    }
    await t.resolves(register(highest))
  })

  t.test('maxEventSize above bufferBytes throws; unset it shrinks to it', async (t) => {
    await t.rejects(register({ bufferBytes: 1_000, maxEventSize: 1_001 }), {
      code: 'FST_ERR_RSSE_OPTION_INVALID',
      message: /maxEventSize/
    })
    await t.resolves(register({ bufferBytes: 1_000, maxEventSize: 1_000 }))
    await t.resolves(register({ bufferBytes: 1_000 }))
  })

  t.test("a shutdown budget beyond Fastify's pluginTimeout throws", async (t) => {
    for (const options of [
      { drainTimeout: 10_000 },
      { abortTimeout: 10_000 },
      { drainTimeout: 6_000, abortTimeout: 6_000 }
    ]) {
      await t.rejects(register(options), { code: 'FST_ERR_RSSE_OPTION_INVALID', message: /(drain|abort)Timeout/ })
    }
  })
})

/** A server that answers `/` by whatever `answer` is at the time. */
async function startWith(t: Test, options: StreamPluginOptions = {}): Promise<App & { answer: Answer }> {
  const state: { answer: Answer } = { answer: () => {} }
  const app = await startApp(t, (fastify) => fastify.all('/', (request, reply) => state.answer(request, reply)), {
    plugin: options
  })
  return Object.assign(state, app)
}
type Answer = (request: FastifyRequest, reply: FastifyReply) => unknown

async function isErrorAnswer(t: Test, app: App, expected: object, request: SseRequest = {}): Promise<void> {
  const client = await app.open('/', request)
  t.match(client.headers['content-type'], 'application/json')
  t.notOk('stream-id' in client.headers)
  t.match(await client.json(), expected)
  t.equal(app.streams.size, 0, 'no stream exists')
  await client.drop()
}

t.test('a wrong option of a call is an ordinary error response', async (t) => {
  const app = await startWith(t)
  const start = {
    ...badStreamOptions,
    ...badCallOptions,
    onLost: ['stop', null],
    signal: [{}, null],
    map: noFunction,
    maxActiveStreams: [1]
  }
  for (const [name, values] of Object.entries(start)) {
    t.test(`${name} of sseFromGenerator`, async (t) => {
      for (const value of values) {
        app.answer = (_, reply) => reply.sseFromGenerator(numbers(1), { [name]: value } as StreamOptions)
        await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OPTION_INVALID', statusCode: 500 })
      }
    })
  }
  const attach = {
    ...badCallOptions,
    missing: [200, '404', null],
    finished: ['end', 404, null],
    onLost: ['end'],
    bufferTTL: [1]
  }
  for (const [name, values] of Object.entries(attach)) {
    t.test(`${name} of sseAttach`, async (t) => {
      for (const value of values) {
        app.answer = (_, reply) => reply.sseAttach('s', { [name]: value })
        await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OPTION_INVALID', statusCode: 500 })
      }
    })
  }

  t.test('options that are no object', async (t) => {
    for (const options of [null, 'x', 1, true]) {
      app.answer = (_, reply) => reply.sseFromGenerator(numbers(1), options as unknown as StreamOptions)
      await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OPTION_INVALID' })
    }
  })

  t.test('maxEventSize above bufferBytes', async (t) => {
    app.answer = (_, reply) => reply.sseFromGenerator(numbers(1), { bufferBytes: 10, maxEventSize: 11 })
    await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OPTION_INVALID' })
  })

  t.test('they are validated when a request attaches to an existing stream, too', async (t) => {
    const app = await startWith(t)
    app.answer = (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 's' })
    await (await app.open('/')).waitForEnd()
    app.answer = (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 's', bufferTTL: -1 })
    t.equal((await app.open('/')).status, 500)
    app.answer = (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 's', bufferTTL: 0, bufferSize: 1 })
    const client = await app.open('/')
    await client.waitForEnd()
    t.same(client.data, ['1'])
    t.ok(app.streams.get('s'), 'unused: the TTL is that of its start')
  })
})

t.test('request.signal is refused, with the reason', async (t) => {
  const app = await startWith(t)
  // Fastify 5.7 has no such signal yet.
  app.answer = (request, reply) => reply.send({ isThere: request.signal !== undefined })
  if (!(await app.fastify.inject('/')).json<{ isThere: boolean }>().isThere) return
  app.answer = (request, reply) => reply.sseFromGenerator(numbers(1), { signal: request.signal })
  await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OPTION_INVALID', message: /signal.*body/s })
  await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OPTION_INVALID' }, { body: { a: 1 } })
})

t.test('a wrong streamId is a 400', async (t) => {
  const app = await startWith(t)
  for (const streamId of ['', ' ', 'a b', 'a/b', 'é', 'a\n', '../x', 'a'.repeat(257), 7, null, {}, ['a'], 'a.b']) {
    app.answer = (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: streamId as string })
    await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_STREAM_ID_INVALID', statusCode: 400 })
    app.answer = (_, reply) => reply.sseAttach(streamId as string)
    await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_STREAM_ID_INVALID', statusCode: 400 })
  }
  app.answer = (_, reply) => reply.sseAttach(undefined as unknown as string)
  await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_STREAM_ID_INVALID', statusCode: 400 })
  for (const streamId of ['a', '-', '_', 'a'.repeat(256)]) {
    app.answer = (_, reply) => reply.sseFromGenerator(numbers(0), { streamId })
    t.equal((await app.open('/')).status, 200)
  }
})

t.test('a wrong owner is an error, never a shared namespace', async (t) => {
  const wrong = ['', undefined, null, 7, {}, Promise.resolve('ada')]
  t.test('from the plugin option', async (t) => {
    let owner: unknown
    const app = await startWith(t, { owner: () => owner as string })
    for (owner of wrong) {
      app.answer = (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 's' })
      await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OWNER_INVALID', statusCode: 500 })
      app.answer = (_, reply) => reply.sseAttach('s')
      await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OWNER_INVALID', statusCode: 500 })
    }
  })

  t.test('from the call', async (t) => {
    const app = await startWith(t)
    for (const owner of wrong.filter((value) => value !== undefined)) {
      app.answer = (_, reply) => reply.sseFromGenerator(numbers(1), { owner: owner as string })
      await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OWNER_INVALID' })
      app.answer = (_, reply) => reply.sseAttach('s', { owner: owner as string })
      await isErrorAnswer(t, app, { code: 'FST_ERR_RSSE_OWNER_INVALID' })
    }
  })

  t.test('an owner function that throws answers with its error', async (t) => {
    const app = await startWith(t, {
      owner: () => {
        throw Object.assign(new Error('log in first'), { statusCode: 401 })
      }
    })
    app.answer = (_, reply) => reply.sseFromGenerator(numbers(1))
    await isErrorAnswer(t, app, { statusCode: 401, message: 'log in first' })
  })

  t.test('that of the call overrides that of the plugin', async (t) => {
    const app = await startWith(t, { owner: () => 'ada' })
    app.answer = (_, reply) => reply.sseFromGenerator(numbers(0), { streamId: 's', owner: 'bob' })
    await (await app.open('/')).waitForEnd()
    t.ok(app.streams.get('s', { owner: 'bob' }))
    t.equal(app.streams.get('s', { owner: 'ada' }), undefined)
  })
})

t.test('a handler', async (t) => {
  t.test('that throws synchronously is an ordinary error response', async (t) => {
    const app = await startWith(t)
    const fails = (): never => {
      throw Object.assign(new Error('no such model'), { statusCode: 422 })
    }
    app.answer = (_, reply) => reply.sseFromGenerator(fails, { streamId: 's' })
    await isErrorAnswer(t, app, { statusCode: 422, message: 'no such model' })
    app.answer = async (_, reply) => reply.sseFromGenerator(fails, { streamId: 's' })
    await isErrorAnswer(t, app, { statusCode: 422, message: 'no such model' })
  })

  t.test('that throws evicts nobody', async (t) => {
    const app = await startWith(t, { maxActiveStreams: 1 })
    app.answer = (_, reply) => reply.sseFromGenerator(numbers(0), { streamId: 'first' })
    await (await app.open('/')).waitForEnd()
    app.answer = (_, reply) =>
      reply.sseFromGenerator(
        () => {
          throw new Error('x')
        },
        { streamId: 'second' }
      )
    t.equal((await app.open('/')).status, 500)
    t.ok(app.streams.get('first'))
  })

  t.test('that is no function is an error', async (t) => {
    const app = await startWith(t)
    for (const handler of [undefined, null, 'x', {}, numbers(1)(new AbortController().signal)]) {
      app.answer = (_, reply) => reply.sseFromGenerator(handler as never)
      const client = await app.open('/')
      t.equal(client.status, 500)
      t.equal(app.streams.size, 0)
    }
  })

  t.test('that returns no iterable fails in-band', async (t) => {
    const app = await startWith(t)
    for (const returned of [undefined, null, 7, {}, Promise.resolve(undefined), { [Symbol.asyncIterator]: () => 7 }]) {
      app.answer = (_, reply) => reply.sseFromGenerator((() => returned) as never)
      const client = await app.open('/')
      t.equal(client.status, 200)
      t.equal(await client.waitForEnd(), 'end')
      t.match(client.events.slice(1), [
        { event: 'stream-error', data: '{"code":"STREAM_FAILED","message":"Internal Server Error"}' },
        { event: 'stream-end', data: '{"outcome":"failed"}' }
      ])
    }
  })

  t.test('that rejects fails in-band', async (t) => {
    const app = await startWith(t)
    app.answer = (_, reply) => reply.sseFromGenerator(() => Promise.reject(new Error('secret')))
    const client = await app.open('/')
    t.equal(client.status, 200)
    await client.waitForEnd()
    t.match(client.events.slice(1), [{ event: 'stream-error' }, { event: 'stream-end', data: '{"outcome":"failed"}' }])
    t.notMatch(client.text, 'secret')
  })
})

const cyclic: Record<string, unknown> = {}
cyclic['self'] = cyclic

const badEvents: [name: string, value: unknown][] = [
  ['undefined', undefined],
  ['null', null],
  ['a number', 7],
  ['a boolean', true],
  ['a symbol', Symbol('x')],
  ['a function', () => 'x'],
  ['an object without data', { event: 'x' }],
  ['an empty object', {}],
  ['an array', ['x']],
  ['data that is undefined', { data: undefined }],
  ['an unknown key', { data: 'x', name: 'y' }],
  ['an id', { data: 'x', id: '7' }],
  ['an unknown key that is null', { data: 'x', name: null }],
  ['a cyclic payload', { data: cyclic }],
  ['a BigInt', { data: 7n }],
  ['a BigInt inside', { data: { n: 7n } }],
  [
    'a payload whose toJSON throws',
    {
      data: {
        toJSON: () => {
          throw new Error('toJSON')
        }
      }
    }
  ],
  ['a function as payload, which JSON has no text for', { data: () => 'x' }],
  ['an event name with LF', { data: 'x', event: 'a\nb' }],
  ['an event name with CR', { data: 'x', event: 'a\rb' }],
  ['an event name with NUL', { data: 'x', event: 'a\0b' }],
  ['an empty event name', { data: 'x', event: '' }],
  ['an event name that is no string', { data: 'x', event: 7 }],
  ['a reserved event name', { data: 'x', event: 'stream-end' }],
  ['a name with the reserved prefix', { data: 'x', event: 'stream-mine' }],
  ['a negative retry', { data: 'x', retry: -1 }],
  ['a retry that is no integer', { data: 'x', retry: 1.5 }],
  ['a retry out of range', { data: 'x', retry: MAX + 1 }],
  ['a retry that is a string', { data: 'x', retry: '1' }],
  ['a comment that is no string', { data: 'x', comment: 7 }],
  ['an event over maxEventSize', 'x'.repeat(1_000)]
]

async function stream(t: Test, handler: () => unknown, options: object = {}): Promise<SseClient> {
  const app = await startApp(t, (fastify) =>
    fastify.get('/', (_, reply) =>
      reply.sseFromGenerator(handler as () => AsyncIterable<string>, { maxEventSize: 500, ...options })
    )
  )
  const client = await app.open('/')
  t.equal(await client.waitForEnd(), 'end')
  return client
}

t.test('a value that cannot be an event', async (t) => {
  for (const [name, value] of badEvents) {
    t.test(`${name} is thrown at its yield, and the generator goes on`, async (t) => {
      let caught: unknown
      const client = await stream(t, async function* () {
        yield 'before'
        try {
          yield value
        } catch (error) {
          caught = error
          yield 'sorry'
        }
        yield 'after'
      })
      t.ok(caught instanceof Error)
      t.same(client.data, ['before', 'sorry', 'after'])
      t.equal(client.events.at(-1)?.data, '{"outcome":"completed"}')
    })

    t.test(`${name}, uncaught, fails the stream`, async (t) => {
      let didFinally = false
      const client = await stream(t, async function* () {
        try {
          yield 'before'
          yield value
          yield 'never'
        } finally {
          didFinally = true
        }
      })
      t.same(client.data, ['before'])
      t.match(client.events.slice(2), [
        { event: 'stream-error' },
        { event: 'stream-end', data: '{"outcome":"failed"}' }
      ])
      t.ok(didFinally)
    })
  }

  t.test('has a code for the client', async (t) => {
    const tooLarge = await stream(t, () => ['x'.repeat(1_000)])
    t.match(tooLarge.events[1], { event: 'stream-error', data: /"EVENT_TOO_LARGE"/ })
    const invalid = await stream(t, () => [undefined])
    t.match(invalid.events[1], { event: 'stream-error', data: /"EVENT_INVALID"/ })
  })

  t.test('in an iterator without throw fails the stream, and the iterator is closed', async (t) => {
    let isClosed = false
    const client = await stream(t, () => ({
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: false, value: undefined }),
        return: async () => {
          isClosed = true
          return { done: true, value: undefined }
        }
      })
    }))
    t.match(client.events.slice(1), [{ event: 'stream-error', data: /"EVENT_INVALID"/ }, { event: 'stream-end' }])
    t.ok(isClosed)
  })

  t.test('from map: a throw, or another type', async (t) => {
    for (const map of [
      () => 7,
      () => {
        throw new Error('map')
      },
      () => undefined,
      async () => 'x'
    ]) {
      const errors: unknown[] = []
      const client = await stream(
        t,
        async function* () {
          try {
            yield 1
          } catch (error) {
            errors.push(error)
          }
        },
        { map }
      )
      t.equal(errors.length, 1)
      t.same(client.data, [])
      t.equal(client.events.at(-1)?.data, '{"outcome":"completed"}')
    }
  })

  t.test('from serialize: a throw, or another type', async (t) => {
    for (const serialize of [
      () => 7,
      () => {
        throw new Error('serialize')
      },
      () => undefined
    ]) {
      const errors: unknown[] = []
      await stream(
        t,
        async function* () {
          try {
            yield { data: {} }
          } catch (error) {
            errors.push(error)
          }
        },
        { serialize }
      )
      t.equal(errors.length, 1)
    }
  })

  t.test('an event of exactly maxEventSize passes, one byte more does not', async (t) => {
    const overhead = Buffer.byteLength('data: \nid: BBBBBBBB.1\n\n')
    const fits = await stream(t, () => ['x'.repeat(500 - overhead)], { streamId: 's' })
    t.equal(fits.data.length, 1)
    const over = await stream(t, () => ['x'.repeat(500 - overhead + 1)], { streamId: 's' })
    t.same(over.data, [])
    t.match(over.events[1]?.data, /EVENT_TOO_LARGE/)
  })
})
