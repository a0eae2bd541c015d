import { connect } from 'node:net'
import t, { type Test } from 'tap'
import type { AttachOptions, StreamOptions } from '../../src/index.ts'
import type { RedisStoreOptions } from '../../src/store/redis.ts'
import { numbers, numbersFrom } from '../helpers/numbers.ts'
import { severalInstances } from '../helpers/shared-store.ts'
import type { SseClient } from '../helpers/sse-client.ts'
import { startApp, type App } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'

interface Counting {
  readonly app: App
  readonly gate: StepGate
  /** How often the handler was called. */
  runs(): number
}

/** A stream `s` of `count` numbers at `/`, followed at `/attach`. */
async function startCounting(
  t: Test,
  count: number,
  options: StreamOptions = {},
  attach: AttachOptions = {},
  store: RedisStoreOptions = {}
): Promise<Counting> {
  const gate = new StepGate()
  let runs = 0
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/', (_, reply) =>
        reply.sseFromGenerator(
          (signal) => {
            runs++
            return numbers(count, gate)(signal)
          },
          { streamId: 's', ...options }
        )
      )
      fastify.get('/attach', (_, reply) => reply.sseAttach('s', attach))
    },
    { store }
  )
  return { app, gate, runs: () => runs }
}

/** The same, run to its end by a first client. */
async function startFinished(
  t: Test,
  count: number,
  options: StreamOptions = {},
  attach: AttachOptions = {},
  store: RedisStoreOptions = {}
): Promise<Counting & { readonly first: SseClient; readonly epoch: string }> {
  const counting = await startCounting(t, count, options, attach, store)
  const first = await counting.app.open('/')
  counting.gate.release(count)
  await first.waitForEnd()
  return { ...counting, first, epoch: epochOf(first) }
}

function epochOf(client: SseClient): string {
  return client.events[0]?.id?.split('.')[0] ?? ''
}

function namesOf(client: SseClient): (string | undefined)[] {
  return client.events.map(({ event }) => event)
}

t.test('HEAD', async (t) => {
  t.test('gets status and headers of the GET, and nothing is started', async (t) => {
    const { app, runs } = await startCounting(t, 1)
    const client = await app.open('/', { method: 'HEAD' })
    t.equal(client.status, 200)
    t.equal(client.headers['content-type'], 'text/event-stream')
    t.equal(client.headers['cache-control'], 'no-store, no-transform')
    t.equal(client.headers['x-accel-buffering'], 'no')
    t.notOk('content-length' in client.headers)
    t.equal(await client.waitForEnd(), 'end')
    t.equal(client.bytes.length, 0)
    t.equal(runs(), 0)
    t.equal(app.streams.size, 0)
  })

  t.test('of a named stream that exists attaches nobody', async (t) => {
    const { app, runs } = await startCounting(t, 1)
    await app.open('/')
    const client = await app.open('/', { method: 'HEAD' })
    t.equal(client.headers['stream-id'], 's')
    t.equal(runs(), 1)
    t.equal(app.streams.get('s')?.clients, 1)
    t.equal(app.streams.stats().replicas, 0)
  })

  t.test('of an attach route says whether there is such a stream', async (t) => {
    const { app } = await startCounting(t, 1)
    t.equal((await app.open('/attach', { method: 'HEAD' })).status, 404)
    await app.open('/')
    for (let instance = 0; instance < 2; instance++) {
      t.equal((await app.open('/attach', { method: 'HEAD' })).status, 200)
    }
    t.equal(app.streams.stats().replicas, 0)
  })

  t.test('of a client that has everything gets 204', async (t) => {
    const { app } = await startCounting(t, 1)
    t.equal((await app.open('/', { method: 'HEAD', lastEventId: 'AAAA.end' })).status, 204)
  })

  t.test('over HTTP/2 starts nothing either', async (t) => {
    const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1))), {
      http2: true
    })
    const client = await app.open('/', { method: 'HEAD' })
    t.equal(client.headers['content-type'], 'text/event-stream')
    t.equal(await client.waitForEnd(), 'end')
    t.equal(app.streams.size, 0)
  })
})

t.test('a terminal id', async (t) => {
  t.test('gets 204 from a stream that is there', async (t) => {
    const { app, first } = await startFinished(t, 2)
    const client = await app.open('/', { lastEventId: first.lastEventId })
    t.equal(client.status, 204)
    t.equal(await client.waitForEnd(), 'end')
    t.equal(client.bytes.length, 0)
  })

  t.test('gets 204 without a look-up: after a restart, whatever onLost and missing say', async (t) => {
    const { app, runs } = await startCounting(t, 1, { onLost: 'restart' })
    t.equal((await app.open('/', { lastEventId: 'BBBBBBBB.end' })).status, 204)
    t.equal((await app.open('/attach', { lastEventId: 'BBBBBBBB.end' })).status, 204)
    t.equal(runs(), 0)
  })

  t.test('gets 204 over HTTP/2', async (t) => {
    const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1))), {
      http2: true
    })
    t.equal((await app.open('/', { lastEventId: 'BBBBBBBB.end' })).status, 204)
  })
})

t.test('a stream that exists, without a cursor', async (t) => {
  for (const lastEventId of [undefined, '']) {
    const title = lastEventId === undefined ? 'no cursor' : 'an empty cursor'
    t.test(`${title} gets everything from event 1`, async (t) => {
      const { app, runs } = await startFinished(t, 3)
      const client = await app.open('/', { lastEventId })
      t.equal(await client.waitForEnd(), 'end')
      t.match(client.events[0], { event: 'stream-start', id: /\.0$/ })
      t.same(client.data, ['1', '2', '3'])
      t.equal(runs(), 1)
    })
  }

  t.test('a log that begins later is told as a trimmed gap with an exact count', async (t) => {
    const { app } = await startFinished(t, 5, { bufferSize: 2, backpressure: 'none' })
    const client = await app.open('/')
    await client.waitForEnd()
    t.match(client.events, [
      { event: 'stream-start', id: /\.0$/ },
      { event: 'stream-gap', data: '{"reason":"trimmed","missed":3,"resumesAt":4}' },
      { data: '4', id: /\.4$/ },
      { data: '5', id: /\.5$/ },
      { event: 'stream-end' }
    ])
  })

  t.test('attaches to a running stream: both clients get all of one run', async (t) => {
    const { app, gate, runs } = await startCounting(t, 4)
    const first = await app.open('/')
    gate.release(2)
    await first.waitForData(2)
    const second = await app.open('/')
    t.same(await second.waitForData(2), ['1', '2'])
    gate.release(2)
    t.same(await Promise.all([first.waitForEnd(), second.waitForEnd()]), ['end', 'end'])
    t.same(first.data, numbersFrom(1, 4))
    t.same(second.data, numbersFrom(1, 4))
    t.equal(runs(), 1)
  })

  t.test("from: 'live' skips what was before", async (t) => {
    const { app, gate } = await startCounting(t, 3, {}, { from: 'live' })
    const first = await app.open('/')
    gate.release(1)
    await first.waitForData(1)
    await app.untilShared('s')
    const live = await app.open('/attach')
    await live.next()
    gate.release(2)
    await live.waitForEnd()
    t.same(live.data, ['2', '3'])
  })

  t.test("from: 'live' resumes by its cursor like any other client", async (t) => {
    const { app, gate } = await startCounting(t, 3, {}, { from: 'live' })
    const first = await app.open('/')
    gate.release(1)
    await first.waitForData(1)
    await app.untilShared('s')
    const live = await app.open('/attach')
    await live.next()
    await live.drop()
    gate.release(2)
    await first.waitForEnd()
    const resumed = await live.reconnect()
    await resumed.waitForEnd()
    t.same(resumed.data, ['2', '3'])
  })

  t.test("from: 'live' of a client whose request starts the run gets all of it", async (t) => {
    const { app, gate } = await startCounting(t, 2, { from: 'live' })
    const client = await app.open('/')
    gate.release(2)
    await client.waitForEnd()
    t.same(client.data, ['1', '2'])
  })

  t.test("from: 'live' of a finished stream is its end alone", async (t) => {
    const { app } = await startFinished(t, 2, {}, { from: 'live' })
    const client = await app.open('/attach')
    t.equal(await client.waitForEnd(), 'end')
    t.same(namesOf(client), ['stream-start', 'stream-end'])
  })
})

t.test('a cursor inside the log', async (t) => {
  t.test('gets exactly what follows, for every event of a finished stream', async (t) => {
    const count = 6
    const { app, epoch } = await startFinished(t, count)
    for (let sequence = 0; sequence <= count; sequence++) {
      const client = await app.open('/', { lastEventId: `${epoch}.${sequence}` })
      t.equal(await client.waitForEnd(), 'end')
      t.same(client.data, numbersFrom(sequence + 1, count))
      t.equal(client.events.at(-1)?.event, 'stream-end')
      t.equal(client.events.length, count - sequence + 1, 'no start and no gap')
    }
  })

  t.test('at the end of a finished stream gets stream-end alone, and then 204', async (t) => {
    const { app, epoch } = await startFinished(t, 3)
    const client = await app.open('/', { lastEventId: `${epoch}.3` })
    t.equal(client.status, 200)
    t.equal(await client.waitForEnd(), 'end')
    t.same(namesOf(client), ['stream-end'])
    t.equal((await client.reconnect()).status, 204)
  })

  t.test('of a running stream gets the rest, live', async (t) => {
    const { app, gate, runs } = await startCounting(t, 6)
    const client = await app.open('/')
    gate.release(2)
    await client.waitForData(2)
    await client.drop()
    gate.release(2)
    const resumed = await client.reconnect()
    t.same(await resumed.waitForData(2), ['3', '4'])
    gate.release(2)
    t.equal(await resumed.waitForEnd(), 'end')
    t.same([...client.data, ...resumed.data], numbersFrom(1, 6))
    t.equal(runs(), 1)
  })

  t.test('of a client that was dropped before the first event gets everything', async (t) => {
    const { app, gate, runs } = await startCounting(t, 2)
    const client = await app.open('/')
    await client.next()
    const resumed = await client.reconnect()
    gate.release(2)
    await resumed.waitForEnd()
    t.same(resumed.data, ['1', '2'])
    t.equal(runs(), 1)
  })

  t.test('the one before the first retained event is no gap', async (t) => {
    const { app, epoch } = await startFinished(t, 5, { bufferSize: 2, backpressure: 'none' })
    const client = await app.open('/', { lastEventId: `${epoch}.3` })
    await client.waitForEnd()
    t.same(namesOf(client), [undefined, undefined, 'stream-end'])
  })
})

t.test('a cursor older than the log is a trimmed gap', async (t) => {
  const { app, epoch } = await startFinished(t, 5, { bufferSize: 2, backpressure: 'none' })
  for (const sequence of [0, 1, 2]) {
    const client = await app.open('/', { lastEventId: `${epoch}.${sequence}` })
    t.equal(client.status, 200)
    t.equal(await client.waitForEnd(), 'end')
    t.same(JSON.parse(client.events[0]?.data ?? ''), { reason: 'trimmed', missed: 3 - sequence, resumesAt: 4 })
    t.same(client.data, ['4', '5'])
  }
})

t.test('a cursor that is not of this stream is a reset, never an exception', async (t) => {
  const { app, epoch, runs } = await startFinished(t, 3)
  const cursors: [name: string, lastEventId: string][] = [
    ['another epoch', 'BBBBBBBB.2'],
    ['another epoch at 0', 'BBBBBBBB.0'],
    ['ahead of the stream', `${epoch}.4`],
    ['far ahead', `${epoch}.999999999999999`],
    ['beyond what is an integer', `${epoch}.9999999999999999999999`],
    ['a leading zero', `${epoch}.01`],
    ['no sequence', epoch],
    ['an empty sequence', `${epoch}.`],
    ['a negative sequence', `${epoch}.-1`],
    ['a fraction', `${epoch}.1.5`],
    ['a word', 'junk'],
    ['a number', '3'],
    ['another terminal', `${epoch}.END`],
    ['spaces', `${epoch} .1`],
    ['two ids', `${epoch}.1, ${epoch}.2`],
    ['no ASCII', `${epoch}.1é☃`],
    ['too long', `${'a'.repeat(127)}.1`],
    ['much too long', 'a'.repeat(8_000)],
    ['the name of a property', '__proto__'],
    ['a path', '../../etc/passwd'],
    ['a percent', '%00%ff.1']
  ]
  for (const [name, lastEventId] of cursors) {
    t.test(name, async (t) => {
      const client = await app.open('/', { lastEventId })
      t.equal(client.status, 200)
      t.equal(await client.waitForEnd(), 'end')
      t.match(client.events, [
        { event: 'stream-gap', data: '{"reason":"reset","missed":null,"resumesAt":1}', id: undefined },
        { data: '1' },
        { data: '2' },
        { data: '3' },
        { event: 'stream-end' }
      ])
    })
  }

  t.test('a repeated header', async (t) => {
    const client = await app.open('/', { headers: { 'Last-Event-ID': `${epoch}.1`, 'last-event-id': `${epoch}.2` } })
    await client.waitForEnd()
    t.match(client.events[0], { event: 'stream-gap', data: /"reset"/ })
    t.same(client.data, ['1', '2', '3'])
  })

  t.test('of a stream whose log begins later resumes where the log begins', async (t) => {
    const { app } = await startFinished(t, 5, { bufferSize: 2, backpressure: 'none' })
    const client = await app.open('/', { lastEventId: 'BBBBBBBB.5' })
    await client.waitForEnd()
    t.equal(client.events[0]?.data, '{"reason":"reset","missed":null,"resumesAt":4}')
    t.same(client.data, ['4', '5'])
  })

  t.test('of a running stream that has no event yet', async (t) => {
    const { app, gate } = await startCounting(t, 1)
    await app.open('/')
    const client = await app.open('/', { lastEventId: 'BBBBBBBB.5' })
    gate.release(1)
    await client.waitForEnd()
    t.match(client.events, [{ event: 'stream-gap', data: /"reset"/ }, { data: '1' }, { event: 'stream-end' }])
  })

  t.equal(runs(), 1)
})

t.test('no such stream', async (t) => {
  t.test('and no cursor: sseFromGenerator starts it, sseAttach answers 404', async (t) => {
    const { app, runs } = await startCounting(t, 1)
    const missing = await app.open('/attach')
    t.equal(missing.status, 404)
    t.match(await missing.json(), { code: 'FST_ERR_RSSE_STREAM_NOT_FOUND', statusCode: 404 })
    t.equal(runs(), 0)
    await app.open('/')
    t.equal(runs(), 1)
    t.equal((await app.open('/attach')).status, 200)
  })

  t.test('and no cursor: missing: 204 makes that a 204', async (t) => {
    const { app } = await startCounting(t, 1, {}, { missing: 204 })
    t.equal((await app.open('/attach')).status, 204)
    t.equal((await app.open('/attach', { lastEventId: '' })).status, 204)
  })

  for (const path of ['/', '/attach']) {
    t.test(`and a cursor at ${path}: it is lost, nothing starts, and the reconnect gets 204`, async (t) => {
      const { app, runs } = await startCounting(t, 1)
      const client = await app.open(path, { lastEventId: 'BBBBBBBB.7' })
      t.equal(client.status, 200)
      t.equal(await client.waitForEnd(), 'end')
      t.match(client.events, [
        { event: 'stream-gap', data: '{"reason":"lost","missed":null,"resumesAt":null}', id: undefined },
        { event: 'stream-end', data: '{"outcome":"lost"}', id: 'BBBBBBBB.end' }
      ])
      t.equal((await client.reconnect()).status, 204)
      t.equal(runs(), 0)
      t.equal(app.streams.size, 0)
    })
  }

  t.test('and a malformed cursor: it is lost too, with a fresh epoch, and the reconnect gets 204', async (t) => {
    const { app, runs } = await startCounting(t, 1)
    for (const lastEventId of ['junk', 'é.1', 'a'.repeat(500)]) {
      const client = await app.open('/', { lastEventId })
      t.equal(await client.waitForEnd(), 'end')
      t.match(client.events.at(-1), { event: 'stream-end', data: '{"outcome":"lost"}', id: /^[\w-]+\.end$/ })
      t.equal((await client.reconnect()).status, 204)
    }
    t.equal(runs(), 0)
  })

  t.test("and a cursor with onLost: 'restart': it is told, and a new run begins at event 1", async (t) => {
    const { app, gate, runs } = await startCounting(t, 2, { onLost: 'restart' })
    const client = await app.open('/', { lastEventId: 'BBBBBBBB.7' })
    gate.release(2)
    t.equal(await client.waitForEnd(), 'end')
    t.match(client.events, [
      { event: 'stream-gap', data: '{"reason":"lost","missed":null,"resumesAt":null}', id: undefined },
      { event: 'stream-start', data: '{"streamId":"s"}', id: /\.0$/ },
      { data: '1', id: /\.1$/ },
      { data: '2', id: /\.2$/ },
      { event: 'stream-end', data: '{"outcome":"completed"}' }
    ])
    t.notMatch(client.events[1]?.id, 'BBBBBBBB')
    t.equal(runs(), 1)
  })

  t.test("and a malformed cursor with onLost: 'restart': a new run as well", async (t) => {
    const { app, gate, runs } = await startCounting(t, 1, { onLost: 'restart' })
    const client = await app.open('/', { lastEventId: 'junk' })
    gate.release(1)
    await client.waitForEnd()
    t.same(namesOf(client), ['stream-gap', 'stream-start', undefined, 'stream-end'])
    t.equal(runs(), 1)
  })

  t.test("a lost response of an unnamed stream with onLost: 'restart' starts a stream with another id", async (t) => {
    const app = await startApp(t, (fastify) =>
      fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1), { onLost: 'restart' }))
    )
    const client = await app.open('/', { lastEventId: `${'A'.repeat(22)}.3` })
    await client.waitForEnd()
    t.same(namesOf(client), ['stream-gap', 'stream-start', undefined, 'stream-end'])
    t.notMatch(client.lastEventId, 'AAAAAA')
  })

  t.test('and a cursor over HTTP/2 is lost cleanly', async (t) => {
    const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1))), {
      http2: true
    })
    const client = await app.open('/', { lastEventId: 'BBBBBBBB.7' })
    t.equal(await client.waitForEnd(), 'end')
    t.same(namesOf(client), ['stream-gap', 'stream-end'])
  })
})

t.test('an unnamed stream', async (t) => {
  async function startUnnamed(t: Test, gate: StepGate): Promise<App> {
    return startApp(
      t,
      (fastify) => {
        fastify.get('/a', (_, reply) => reply.sseFromGenerator(numbers(3, gate)))
        fastify.post('/a', (_, reply) => reply.sseFromGenerator(numbers(3, gate)))
        fastify.get('/b', (_, reply) => reply.sseFromGenerator(numbers(3, gate)))
        fastify.get('/x/:id', (_, reply) => reply.sseFromGenerator(numbers(3, gate)))
        fastify.get<{ Params: { id: string } }>('/attach/:id', (request, reply) => reply.sseAttach(request.params.id))
      },
      { plugin: { owner: (request) => String(request.headers['x-user'] ?? 'nobody') } }
    )
  }

  t.test('is found by its cursor at its route', async (t) => {
    const gate = new StepGate()
    const app = await startUnnamed(t, gate)
    const client = await app.open('/x/1')
    gate.release(1)
    await client.waitForData(1)
    await client.drop()
    const resumed = await app.open('/x/2?other=query', { lastEventId: client.lastEventId })
    gate.release(2)
    await resumed.waitForEnd()
    t.same(resumed.data, ['2', '3'], 'the route counts, not the address')
    t.equal(app.streams.stats().started, 1)
  })

  const strangers: [who: string, path: string, method: string, user: string][] = [
    ['another owner', '/a', 'GET', 'mallory'],
    ['another route', '/b', 'GET', 'nobody'],
    ['another method', '/a', 'POST', 'nobody']
  ]
  for (const [who, path, method, user] of strangers) {
    t.test(`is not there for ${who}`, async (t) => {
      const gate = new StepGate()
      const app = await startUnnamed(t, gate)
      const client = await app.open('/a')
      gate.release(1)
      await client.waitForData(1)
      const request = { lastEventId: client.lastEventId, headers: { 'x-user': user }, method }
      const stranger = await app.open(path, request)
      t.equal(await stranger.waitForEnd(), 'end')
      t.same(namesOf(stranger), ['stream-gap', 'stream-end'])
      t.equal(stranger.events[1]?.data, '{"outcome":"lost"}')
      t.equal(app.streams.stats().started, 1)
    })
  }

  t.test('two requests without a cursor are two streams', async (t) => {
    const app = await startUnnamed(t, new StepGate())
    const [a, b] = await Promise.all([app.open('/a'), app.open('/a')])
    t.not(a.headers['stream-id'], b.headers['stream-id'])
    t.equal(app.streams.size, 2)
  })

  t.test('is attached to by its public id, by its owner only', async (t) => {
    const app = await startUnnamed(t, new StepGate())
    const client = await app.open('/a')
    const path = `/attach/${client.headers['stream-id']}`
    t.equal((await app.open(path)).status, 200)
    t.equal((await app.open(path, { headers: { 'x-user': 'mallory' } })).status, 404)
  })
})

t.test('a named stream of another owner cannot be told from a missing one', async (t) => {
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1, new StepGate()), { streamId: 's' }))
      fastify.get('/attach', (_, reply) => reply.sseAttach('s'))
      fastify.get('/none', (_, reply) => reply.sseAttach('none'))
    },
    { plugin: { owner: (request) => String(request.headers['x-user'] ?? 'nobody') } }
  )
  const client = await app.open('/')
  await client.next()
  const headers = { 'x-user': 'mallory' }

  const [foreign, missing] = await Promise.all([app.open('/attach', { headers }), app.open('/none', { headers })])
  t.equal(foreign.status, 404)
  t.equal((await foreign.json())['message'], String((await missing.json())['message']).replace('none', 's'))
  const guess = await app.open('/attach', { headers, lastEventId: client.lastEventId })
  await guess.waitForEnd()
  t.same(namesOf(guess), ['stream-gap', 'stream-end'])

  const own = await app.open('/', { headers })
  await own.next()
  t.equal(app.streams.stats().started, 2, 'the same name of another owner is another stream')
  t.not(epochOf(own), epochOf(client))
})

t.test('the lastEventId option', async (t) => {
  async function startWithQuery(t: Test): Promise<App> {
    return startApp(t, (fastify) => {
      fastify.get<{ Querystring: { last: string } }>('/', (request, reply) =>
        reply.sseFromGenerator(numbers(4), { streamId: 's', lastEventId: request.query.last })
      )
      fastify.get<{ Querystring: { last: string } }>('/attach', (request, reply) =>
        reply.sseAttach('s', { lastEventId: request.query.last })
      )
    })
  }

  t.test('resumes like the header', async (t) => {
    const app = await startWithQuery(t)
    const first = await app.open('/')
    await first.waitForEnd()
    const id = `${epochOf(first)}.2`
    for (const path of ['/', '/attach']) {
      const client = await app.open(`${path}?last=${id}`)
      await client.waitForEnd()
      t.same(client.data, ['3', '4'])
    }
  })

  t.test('gives way to the header', async (t) => {
    const app = await startWithQuery(t)
    const first = await app.open('/')
    await first.waitForEnd()
    const epoch = epochOf(first)
    const client = await app.open(`/?last=${epoch}.1`, { lastEventId: `${epoch}.3` })
    await client.waitForEnd()
    t.same(client.data, ['4'])
  })

  t.test('counts where the header is empty', async (t) => {
    const app = await startWithQuery(t)
    const first = await app.open('/')
    await first.waitForEnd()
    const client = await app.open(`/?last=${epochOf(first)}.3`, { lastEventId: '' })
    await client.waitForEnd()
    t.same(client.data, ['4'])
  })

  t.test('with junk in it is a malformed cursor', async (t) => {
    const app = await startWithQuery(t)
    await (await app.open('/')).waitForEnd()
    for (const query of ['last=junk', 'last=a.1&last=b.2', `last=${'a'.repeat(300)}`, 'last=%E2%98%83.1']) {
      const client = await app.open(`/?${query}`)
      t.equal(client.status, 200)
      await client.waitForEnd()
      t.match(client.events[0], { event: 'stream-gap', data: /"reset"/ })
      t.same(client.data, numbersFrom(1, 4))
    }
  })

  t.test('of another type is a malformed cursor too', async (t) => {
    let last: unknown
    const app = await startApp(t, (fastify) =>
      fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 's', lastEventId: last as string }))
    )
    await (await app.open('/')).waitForEnd()
    for (last of [7, null, {}, [], Symbol('x'), () => 'x']) {
      const client = await app.open('/')
      t.equal(client.status, 200)
      await client.waitForEnd()
      t.match(client.events[0], { event: 'stream-gap', data: /"reset"/ })
    }
  })
})

t.test('sseAttach', async (t) => {
  t.test('replays a finished stream', async (t) => {
    const { app } = await startFinished(t, 2)
    const client = await app.open('/attach')
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1', '2'])
  })

  t.test('with finished: 204 does not, but a cursor still gets what follows', async (t) => {
    const { app, epoch } = await startFinished(t, 2, {}, { finished: 204 })
    t.equal((await app.open('/attach')).status, 204)
    const client = await app.open('/attach', { lastEventId: `${epoch}.1` })
    t.equal(client.status, 200)
    await client.waitForEnd()
    t.same(client.data, ['2'])
  })

  t.test('with finished: 204 attaches to a running stream', async (t) => {
    const { app, gate } = await startCounting(t, 2, {}, { finished: 204 })
    await app.open('/')
    const client = await app.open('/attach')
    gate.release(2)
    await client.waitForEnd()
    t.same(client.data, ['1', '2'])
  })
})

t.test('two simultaneous first requests share one run', async (t) => {
  const { app, gate, runs } = await startCounting(t, 3)
  const clients = await Promise.all(Array.from({ length: 8 }, () => app.open('/')))
  gate.release(3)
  for (const client of clients) {
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1', '2', '3'])
  }
  t.equal(runs(), 1)
})

t.test('a stream that is started again after its removal has another epoch', async (t) => {
  // A store keeps it for four leases.
  const { app, gate, first, runs } = await startFinished(t, 2, { bufferTTL: 0 }, {}, { lease: 400 })
  await first.drop()
  await app.untilGone('s')
  t.equal(app.streams.size, 0)
  const second = await app.open('/')
  gate.release(2)
  await second.waitForEnd()
  t.equal(runs(), 2)
  t.not(epochOf(second), epochOf(first))
})

t.test('a client that closes in the middle of its request is forgotten', async (t) => {
  const { app, gate } = await startCounting(t, 1)
  const socket = connect(app.port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.end('GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nlast-eve')
  socket.resume()
  await new Promise((resolve) => socket.once('close', resolve))
  const client = await app.open('/')
  gate.release(1)
  await client.waitForEnd()
  t.equal(app.streams.stats().started, 1)
})

t.test('on several instances', severalInstances, async (t) => {
  t.test('a cursor ahead of what is known of a running stream waits for its event', async (t) => {
    const { app, gate } = await startCounting(t, 4)
    const first = await app.at(0).open('/')
    gate.release(2)
    await first.waitForData(2)
    const ahead = app.at(1).send('/', { lastEventId: `${epochOf(first)}.3` })
    gate.release(2)
    t.equal(await ahead.waitForEnd(), 'end')
    t.same(namesOf(ahead), [undefined, 'stream-end'])
    t.same(ahead.data, ['4'])
  })

  t.test('one whose event does not come for a lease is a reset', async (t) => {
    const { app, gate } = await startCounting(t, 3, {}, {}, { lease: 1_500 })
    const first = await app.at(0).open('/')
    gate.release(2)
    await first.waitForData(2)
    const ahead = await app.at(1).open('/', { lastEventId: `${epochOf(first)}.9` })
    gate.release(1)
    t.equal(await ahead.waitForEnd(), 'end')
    t.same(namesOf(ahead), ['stream-gap', undefined, undefined, undefined, 'stream-end'])
    t.match(ahead.events[0]?.data, '"reset"')
  })

  /** A stream whose home has closed with it, and a client elsewhere that has its first event. */
  async function startLost(t: Test, options: StreamOptions = {}): Promise<Counting & { readonly client: SseClient }> {
    const counting = await startCounting(t, 2, options)
    const { app, gate } = counting
    await app.at(0).open('/')
    const client = await app.at(1).open('/')
    gate.release(1)
    await client.waitForData(1)
    await app.at(0).close()
    return { ...counting, app: app.at(1), client }
  }

  const lost = [
    { event: 'stream-error', data: /^{"code":"STREAM_LOST",/, id: undefined },
    { event: 'stream-end', data: '{"outcome":"lost"}', id: /\.end$/ }
  ]

  t.test('a stream whose home is gone is lost: its clients are told, and so is whoever comes', async (t) => {
    const { app, client, runs } = await startLost(t)
    t.equal(await client.waitForEnd(), 'end')
    t.match(client.events.slice(2), lost)
    t.equal((await client.reconnect()).status, 204)
    for (const lastEventId of [undefined, `${epochOf(client)}.0`, `${epochOf(client)}.1`, `${epochOf(client)}.2`]) {
      const late = await app.open('/', { lastEventId })
      t.equal(await late.waitForEnd(), 'end')
      t.match(late.events.slice(-2), lost)
      t.same(late.data, lastEventId === undefined || lastEventId.endsWith('.0') ? ['1'] : [])
    }
    t.equal(runs(), 1)
  })

  t.test("with onLost: 'restart' it gives way to a new run", async (t) => {
    const { app, gate, client, runs } = await startLost(t, { onLost: 'restart' })
    await client.waitForEnd()
    const again = await app.open('/', { lastEventId: `${epochOf(client)}.1` })
    gate.release(2)
    t.equal(await again.waitForEnd(), 'end')
    t.same(namesOf(again), ['stream-gap', 'stream-start', undefined, undefined, 'stream-end'])
    t.equal(again.events[0]?.data, '{"reason":"lost","missed":null,"resumesAt":null}')
    t.not(again.events[1]?.id?.split('.')[0], epochOf(client))
    t.equal(runs(), 2)
  })
})
