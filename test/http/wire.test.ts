import { createHash } from 'node:crypto'
import t, { type Test } from 'tap'
import type { SseInput, StreamOptions, StreamPluginOptions } from '../../src/index.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { numbers, numbersFrom } from '../helpers/numbers.ts'
import type { SseClient, SseRequest } from '../helpers/sse-client.ts'
import { startApp, type App } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'

const FIRST_BLOCK = /^retry: (\d+)\nevent: stream-start\ndata: {"streamId":"([\w-]+)"}\nid: ([\w-]+)\.0\n\n/

/** One stream of these values at `/`, and a client that has read all of it; whoever resumes reads the same bytes. */
async function streamOf(
  t: Test,
  values: Iterable<SseInput>,
  options: StreamOptions = {},
  plugin: StreamPluginOptions = {}
): Promise<SseClient> {
  const app = await startApp(
    t,
    (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(() => values, options)),
    {
      plugin
    }
  )
  const client = await app.open('/')
  t.equal(await client.waitForEnd(), 'end')
  const resumed = await client.reconnect({ lastEventId: client.events[0]?.id })
  t.equal(await resumed.waitForEnd(), 'end')
  t.same(resumed.blocks.slice(1), client.blocks.slice(1))
  return client
}

/** The blocks of the events of the generator, without their ids. */
function userBlocks(client: SseClient): string[] {
  return client.blocks.filter((block) => /\.[1-9]\d*$/.test(block)).map((block) => block.replace(/id: .*$/, ''))
}

t.test('4.1 response', async (t) => {
  for (const protocol of ['http/1.1', 'h2'] as const) {
    t.test(`the head of an ${protocol} response`, async (t) => {
      const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1))), {
        http2: protocol === 'h2'
      })
      const { status, headers } = await app.open('/')
      t.equal(status, 200)
      t.equal(headers['content-type'], 'text/event-stream')
      t.equal(headers['cache-control'], 'no-store, no-transform')
      t.equal(headers['x-accel-buffering'], 'no')
      t.match(headers['stream-id'], /^[\w-]{22}$/)
      t.notOk('content-length' in headers)
      t.notOk('content-encoding' in headers)
      if (protocol === 'h2') t.notOk('connection' in headers)
    })
  }

  t.test('the stream-id header carries the name of a named stream', async (t) => {
    const client = await streamOf(t, ['a'], { streamId: 'answer-42' })
    t.equal(client.headers['stream-id'], 'answer-42')
    t.same(JSON.parse(client.events[0]?.data ?? ''), { streamId: 'answer-42' })
  })

  t.test('the head and the first block go out before the generator yields', async (t) => {
    const gate = new StepGate()
    const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1, gate))))
    const client = await app.open('/')
    t.equal((await client.next()).event, 'stream-start')
    t.same(client.data, [])
    gate.release(1)
    t.same(await client.waitForData(1), ['1'])
  })

  t.test('headers that a handler set before are kept', async (t) => {
    const app = await startApp(t, (fastify) =>
      fastify.get('/', (_, reply) => reply.header('x-own', 'kept').sseFromGenerator(numbers(1)))
    )
    const client = await app.open('/')
    t.equal(client.headers['x-own'], 'kept')
  })
})

t.test('4.2 frames', async (t) => {
  t.test('a client without a cursor is told the retry delay and the position 0 first', async (t) => {
    const client = await streamOf(t, ['a'])
    const [, retry, streamId, epoch = ''] = FIRST_BLOCK.exec(client.text) ?? []
    t.ok(Number(retry) >= 1_500 && Number(retry) <= 4_500, `${retry} is 3000 ± 50 %`)
    t.equal(streamId, client.headers['stream-id'])
    t.match(epoch, /^[\w-]{22}$/, '16 random bytes')
    t.equal(streamId, createHash('sha256').update(epoch).digest().subarray(0, 16).toString('base64url'))
  })

  t.test('a client with a cursor is told the retry delay and what follows its cursor', async (t) => {
    const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(2))))
    const first = await app.open('/')
    await first.waitForEnd()
    const id = first.userEvents[0]?.id ?? ''
    const second = await app.open('/', { lastEventId: id })
    await second.waitForEnd()
    const epoch = id.split('.')[0]
    t.match(
      second.text,
      new RegExp(
        String.raw`^retry: \d+\n\ndata: 2\nid: ${epoch}\.2\n\nevent: stream-end\ndata: {"outcome":"completed"}\nid: ${epoch}\.end\n\n$`
      )
    )
  })

  t.test('the epoch of a named stream has 6 random bytes', async (t) => {
    const client = await streamOf(t, ['a'], { streamId: 'named' })
    t.match(client.events[0]?.id, /^[\w-]{8}\.0$/)
  })

  t.test('ids are short and count 1, 2, 3 …', async (t) => {
    const client = await streamOf(t, ['a', 'b', 'c'])
    const ids = client.events.map((event) => event.id ?? '')
    const epoch = ids[0]?.split('.')[0]
    t.same(ids, [`${epoch}.0`, `${epoch}.1`, `${epoch}.2`, `${epoch}.3`, `${epoch}.end`])
    for (const id of ids) t.match(id, /^[A-Za-z0-9._-]{1,128}$/)
  })

  t.test('the id is the last line of every block that has one', async (t) => {
    const client = await streamOf(t, [{ data: 'x\ny', event: 'e', comment: 'c', retry: 7 }, 'plain'])
    for (const block of client.blocks.slice(1)) t.match(block.split('\n').at(-1), /^id: ./)
    t.same(client.retries.at(-1), 7)
    t.match(client.comments, ['c'])
  })

  const frames: [name: string, input: SseInput, block: string][] = [
    ['a string is data', 'hello', 'data: hello\n'],
    ['an empty string is an event', '', 'data: \n'],
    ['a leading space survives', ' x', 'data:  x\n'],
    ['an object with data is a message', { data: 'x' }, 'data: x\n'],
    ['a named event begins with its name', { event: 'token', data: 'x' }, 'event: token\ndata: x\n'],
    ['LF splits data', 'a\nb', 'data: a\ndata: b\n'],
    ['CRLF splits data once', 'a\r\nb', 'data: a\ndata: b\n'],
    ['a lone CR splits data', 'a\rb\r', 'data: a\ndata: b\ndata: \n'],
    [
      'data that looks like fields stays data',
      'id: 1\nevent: x\n\n: y',
      'data: id: 1\ndata: event: x\ndata: \ndata: : y\n'
    ],
    ['other data is JSON', { data: { a: [1, null, 'ü'] } }, 'data: {"a":[1,null,"ü"]}\n'],
    ['null is data', { data: null }, 'data: null\n'],
    ['unknown keys that are undefined are nothing', { data: 'x', other: undefined } as SseInput, 'data: x\n'],
    ['a comment of two lines is two comments', { data: 'x', comment: 'a\nb' }, ': a\n: b\ndata: x\n'],
    ['a retry is an integer', { data: 'x', retry: 0 }, 'retry: 0\ndata: x\n'],
    ['a lone surrogate becomes U+FFFD', 'a\uD800b', 'data: a\uFFFDb\n'],
    ['a NUL in data stays', 'a\0b', 'data: a\0b\n']
  ]
  for (const [name, input, block] of frames) {
    t.test(name, async (t) => {
      const client = await streamOf(t, [input])
      const lines = (text: string): string[] => text.split('\n').toSorted()
      t.same(lines(userBlocks(client)[0] ?? ''), lines(block))
    })
  }

  t.test('serialize turns data that is no string into one', async (t) => {
    const client = await streamOf(t, [{ data: 7n }, { data: 'kept' }], { serialize: (value) => `<${String(value)}>` })
    t.same(client.data, ['<7>', 'kept'])
  })

  t.test('map makes events of other values', async (t) => {
    const app = await startApp(t, (fastify) =>
      fastify.get('/', (_, reply) =>
        reply.sseFromGenerator(() => [1, 2], { map: (value) => ({ event: 'n', data: { value } }) })
      )
    )
    const client = await app.open('/')
    await client.waitForEnd()
    t.same(
      client.userEvents.map(({ event, data }) => [event, data]),
      [
        ['n', '{"value":1}'],
        ['n', '{"value":2}']
      ]
    )
  })

  t.test("with from: 'live' the first block names the position before the first frame that follows", async (t) => {
    const gate = new StepGate()
    const app = await startApp(t, (fastify) => {
      fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(4, gate), { streamId: 's' }))
      fastify.get('/live', (_, reply) => reply.sseAttach('s', { from: 'live' }))
    })
    const all = await app.open('/')
    gate.release(2)
    await all.waitForData(2)
    await app.untilShared('s')
    const live = await app.open('/live')
    t.match(await live.next(), { event: 'stream-start', id: /\.2$/ })
    gate.release(2)
    t.equal(await live.waitForEnd(), 'end')
    t.same(live.data, ['3', '4'])
  })

  t.test('a stream whose log begins later still names position 0 first, then the gap', async (t) => {
    const client = await openTrimmed(t)
    t.match(client.events[0], { event: 'stream-start', id: /\.0$/ })
    t.match(client.events[1]?.event, 'stream-gap')
  })

  t.test('a gap carries no id', async (t) => {
    const client = await openTrimmed(t)
    const gap = client.blocks.find((block) => block.startsWith('event: stream-gap'))
    t.notMatch(gap, /^id/m)
  })

  t.test('an id is never empty', async (t) => {
    const client = await openTrimmed(t)
    t.notMatch(client.text, /^id: ?$/m)
  })
})

t.test('retry', async (t) => {
  async function retriesOf(t: Test, plugin: StreamPluginOptions, options: StreamOptions = {}): Promise<number[]> {
    const app = await startApp(
      t,
      (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 's', ...options })),
      { plugin }
    )
    const retries: number[] = []
    for (let connection = 0; connection < 20; connection++) {
      const client = await app.open('/')
      await client.waitForEnd()
      await client.drop()
      retries.push(...client.retries)
    }
    return retries
  }

  t.test('is jittered by half per connection', async (t) => {
    const retries = await retriesOf(t, { retry: 1_000 })
    t.equal(retries.length, 20)
    for (const retry of retries) t.ok(Number.isInteger(retry) && retry >= 500 && retry <= 1_500, String(retry))
    t.ok(new Set(retries).size > 1, 'not all the same')
  })

  t.test('of the call wins over that of the plugin', async (t) => {
    const retries = await retriesOf(t, { retry: 1_000 }, { retry: 100_000 })
    for (const retry of retries) t.ok(retry >= 50_000 && retry <= 150_000, String(retry))
  })

  t.test('never exceeds what clients can take', async (t) => {
    const retries = await retriesOf(t, { retry: 2_147_483_647 })
    for (const retry of retries) t.ok(retry <= 2_147_483_647, String(retry))
  })

  t.test('false sends none', async (t) => {
    t.same(await retriesOf(t, { retry: false }), [])
  })

  t.test('0 stays 0', async (t) => {
    t.same(new Set(await retriesOf(t, { retry: 0 })), new Set([0]))
  })
})

t.test('heartbeat', async (t) => {
  interface Idle {
    readonly app: App
    readonly clock: ManualClock
    readonly gate: StepGate
  }

  async function startIdle(t: Test, plugin: StreamPluginOptions = {}, options: StreamOptions = {}): Promise<Idle> {
    const clock = new ManualClock()
    const gate = new StepGate()
    const app = await startApp(
      t,
      (fastify) =>
        fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(9, gate), { streamId: 's', ...options })),
      { clock, plugin }
    )
    // It started the stream; the client of the test comes to one that is there.
    await app.open('/')
    return { app, clock, gate }
  }

  t.test('is a comment without anything else, to a client that was sent nothing for that long', async (t) => {
    const { app, clock, gate } = await startIdle(t, { heartbeatInterval: 1_000 })
    const client = await app.open('/')
    await client.next()
    clock.advance(999)
    gate.release(1)
    await client.waitForData(1)
    clock.advance(999)
    t.same(client.comments, [], 'an event counts as a sign of life')
    clock.advance(1)
    await client.waitUntil('a heartbeat', () => client.comments.length === 1)
    t.ok(client.text.endsWith('\n\n:\n\n'))
    clock.advance(1_000)
    await client.waitUntil('the next one', () => client.comments.length === 2)
  })

  t.test('0 sends none', async (t) => {
    const { app, clock, gate } = await startIdle(t, { heartbeatInterval: 0 })
    const client = await app.open('/')
    await client.next()
    clock.advance(60_000)
    gate.release(1)
    await client.waitForData(1)
    t.same(client.comments, [])
  })

  t.test('the interval of the call wins over that of the plugin', async (t) => {
    const { app, clock } = await startIdle(t, { heartbeatInterval: 0 }, { heartbeatInterval: 50 })
    const client = await app.open('/')
    await client.next()
    clock.advance(50)
    await client.waitUntil('a heartbeat', () => client.comments.length === 1)
  })
})

t.test('4.3 control events', async (t) => {
  t.test('a stream that completed ends with its outcome, and then the response ends', async (t) => {
    const client = await streamOf(t, ['a'])
    const end = client.events.at(-1)
    t.match(end, { event: 'stream-end', data: '{"outcome":"completed"}', id: /^[\w-]{22}\.end$/ })
    t.ok(client.text.endsWith('.end\n\n'), 'nothing follows it')
  })

  t.test('a stream without any event is a start and an end', async (t) => {
    const client = await streamOf(t, [])
    t.same(
      client.events.map(({ event }) => event),
      ['stream-start', 'stream-end']
    )
  })

  t.test('an error has a sequence of its own and is replayed like any event', async (t) => {
    const app = await startApp(t, (fastify) =>
      fastify.get('/', (_, reply) => reply.sseFromGenerator(failing(new Error('x'))))
    )
    const client = await app.open('/')
    t.equal(await client.waitForEnd(), 'end')
    t.match(client.events.slice(1), [
      { data: 'before', id: /\.1$/ },
      { event: 'stream-error', data: '{"code":"STREAM_FAILED","message":"Internal Server Error"}', id: /\.2$/ },
      { event: 'stream-end', data: '{"outcome":"failed"}', id: /\.end$/ }
    ])
    const afterEvent = await client.reconnect({ lastEventId: client.events[1]?.id })
    await afterEvent.waitForEnd()
    t.same(
      afterEvent.events.map(({ event }) => event),
      ['stream-error', 'stream-end']
    )
    const afterError = await client.reconnect({ lastEventId: client.events[2]?.id })
    await afterError.waitForEnd()
    t.same(
      afterError.events.map(({ event }) => event),
      ['stream-end']
    )
  })

  const coded: [error: unknown, code: string, message: string][] = [
    [new Error('secret'), 'STREAM_FAILED', 'Internal Server Error'],
    ['a thrown string', 'STREAM_FAILED', 'Internal Server Error'],
    [undefined, 'STREAM_FAILED', 'Internal Server Error'],
    [Object.assign(new Error('shown'), { expose: true }), 'STREAM_FAILED', 'shown'],
    [Object.assign(new Error('shown'), { statusCode: 422 }), 'STREAM_FAILED', 'shown'],
    [Object.assign(new Error('secret'), { statusCode: 500 }), 'STREAM_FAILED', 'Internal Server Error'],
    [new DOMException('secret', 'TimeoutError'), 'STREAM_TIMEOUT', 'Internal Server Error'],
    [Object.assign(new Error('secret'), { code: 'ETIMEDOUT' }), 'STREAM_TIMEOUT', 'Internal Server Error'],
    [Object.assign(new Error('secret'), { code: 'ECONNREFUSED' }), 'STREAM_UNAVAILABLE', 'Internal Server Error'],
    [Object.assign(new Error('secret'), { code: 'ECONNRESET' }), 'STREAM_UNAVAILABLE', 'Internal Server Error'],
    [Object.assign(new Error('secret'), { code: 'ENOTFOUND' }), 'STREAM_UNAVAILABLE', 'Internal Server Error'],
    [Object.assign(new Error('secret'), { statusCode: 502 }), 'STREAM_UNAVAILABLE', 'Internal Server Error'],
    [Object.assign(new Error('secret'), { statusCode: 503 }), 'STREAM_UNAVAILABLE', 'Internal Server Error'],
    [Object.assign(new Error('secret'), { statusCode: 504 }), 'STREAM_UNAVAILABLE', 'Internal Server Error'],
    [new DOMException('its own', 'AbortError'), 'STREAM_ABORTED', 'Internal Server Error'],
    [new Error('AbortError ETIMEDOUT 503'), 'STREAM_FAILED', 'Internal Server Error']
  ]
  for (const [error, code, message] of coded) {
    t.test(`${describe(error)} is ${code} to a client`, async (t) => {
      const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(failing(error))))
      const client = await app.open('/')
      t.equal(await client.waitForEnd(), 'end')
      const [failure, end] = client.events.slice(-2)
      t.same(JSON.parse(failure?.data ?? ''), { code, message })
      t.equal(end?.data, '{"outcome":"failed"}', "a generator's own error, whatever its name, is a failure")
      const resumed = await client.reconnect({ lastEventId: client.events[1]?.id })
      t.equal(await resumed.waitForEnd(), 'end')
      t.same(resumed.blocks.slice(1), client.blocks.slice(2), 'whoever resumes is told the same')
    })
  }

  t.test('an abort is told by its code, its reason is not shown', async (t) => {
    const app = await startApp(t, (fastify) =>
      fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1, new StepGate()), { streamId: 's' }))
    )
    const clients = [await app.open('/'), await app.open('/')]
    for (const client of clients) await client.next()
    t.equal(await app.streams.abort('s', { reason: 'secret' }), true)
    for (const client of clients) {
      t.equal(await client.waitForEnd(), 'end')
      t.match(client.events.slice(1), [
        { event: 'stream-error', data: /^{"code":"STREAM_ABORTED",/, id: /\.1$/ },
        { event: 'stream-end', data: '{"outcome":"aborted"}' }
      ])
      t.notMatch(client.text, 'secret')
    }
  })

  t.test('an eviction is told by its code', async (t) => {
    const app = await startApp(
      t,
      (fastify) =>
        fastify.get<{ Params: { id: string } }>('/:id', (request, reply) =>
          reply.sseFromGenerator(numbers(1, new StepGate()), { streamId: request.params.id })
        ),
      { plugin: { maxActiveStreams: 1 } }
    )
    const clients = [await app.open('/first'), await app.open('/first')]
    for (const client of clients) await client.next()
    await app.at(0).open('/second')
    for (const client of clients) {
      t.equal(await client.waitForEnd(), 'end')
      t.match(client.events.slice(1), [
        { event: 'stream-error', data: /^{"code":"STREAM_EVICTED",/ },
        { event: 'stream-end', data: '{"outcome":"evicted"}' }
      ])
    }
  })

  t.test('an error is outside the limits of the log: it pushes no event out', async (t) => {
    const app = await startApp(t, (fastify) =>
      fastify.get('/', (_, reply) => reply.sseFromGenerator(failing(new Error('x')), { bufferSize: 1 }))
    )
    const client = await app.open('/')
    await client.waitForEnd()
    const again = await client.reconnect({ lastEventId: client.events[0]?.id })
    await again.waitForEnd()
    t.match(again.events, [{ data: 'before' }, { event: 'stream-error' }, { event: 'stream-end' }])
  })
})

/** A client without a cursor on a finished stream that kept the last 2 of 5 events. */
async function openTrimmed(t: Test, request: SseRequest = {}): Promise<SseClient> {
  const app = await startApp(t, (fastify) =>
    fastify.get('/', (_, reply) =>
      reply.sseFromGenerator(numbers(5), { streamId: 's', bufferSize: 2, backpressure: 'none' })
    )
  )
  await (await app.open('/')).waitForEnd()
  const client = await app.open('/', request)
  await client.waitForEnd()
  t.same(client.data, numbersFrom(4, 5))
  return client
}

function failing(error: unknown): () => AsyncGenerator<string> {
  return async function* () {
    yield 'before'
    throw error
  }
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { code, statusCode, expose } = error as { code?: unknown; statusCode?: unknown; expose?: unknown }
  return `${error.name} ${JSON.stringify({ message: error.message, code, statusCode, expose })}`
}
