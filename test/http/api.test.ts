import t, { type Test } from 'tap'
import type { SseStreams, StreamInfo } from '../../src/index.ts'
import { eventually } from '../helpers/eventually.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { numbers } from '../helpers/numbers.ts'
import { INSTANCES, oneInstance } from '../helpers/shared-store.ts'
import { startApp, type App, type AppOptions } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'
import { turn } from '../helpers/turns.ts'

interface Started {
  readonly app: App
  readonly streams: SseStreams
  readonly gate: StepGate
}

/** `/:id` streams two numbers as soon as the gate lets them. */
async function start(t: Test, options: AppOptions = {}): Promise<Started> {
  const gate = new StepGate()
  const app = await startApp(
    t,
    (fastify) =>
      fastify.get<{ Params: { id: string } }>('/:id', (request, reply) =>
        reply.sseFromGenerator(numbers(2, gate), { streamId: request.params.id })
      ),
    options
  )
  return { app, streams: app.streams, gate }
}

t.test('get', async (t) => {
  t.test('tells what a running stream is like', async (t) => {
    const clock = new ManualClock()
    const { app, streams, gate } = await start(t, { clock })
    const startedAt = clock.now()
    const client = await app.open('/s')
    gate.release(1)
    await client.waitForData(1)
    t.match(streams.get('s'), {
      streamId: 's',
      state: 'running',
      clients: 1,
      firstSequence: 1,
      lastSequence: 1,
      bufferedEvents: 1,
      startedAt
    } satisfies Partial<StreamInfo>)
    t.ok((streams.get('s')?.bufferedBytes ?? 0) > 0)
    t.equal(streams.get('s')?.outcome, undefined)
    t.equal(streams.get('s')?.finishedAt, undefined)
  })

  t.test('tells how and when a stream finished', async (t) => {
    const clock = new ManualClock()
    const { app, streams, gate } = await start(t, { clock })
    const client = await app.open('/s')
    clock.advance(500)
    gate.release(2)
    await client.waitForEnd()
    t.match(streams.get('s'), {
      state: 'finished',
      outcome: 'completed',
      firstSequence: 1,
      lastSequence: 2,
      bufferedEvents: 2,
      finishedAt: clock.now()
    } satisfies Partial<StreamInfo>)
  })

  t.test('of an empty log begins one after its end', async (t) => {
    const { app, streams } = await start(t)
    await app.open('/s')
    t.match(streams.get('s'), { firstSequence: 1, lastSequence: 0, bufferedEvents: 0, bufferedBytes: 0 })
  })

  t.test('of a trimmed log names what is retained', async (t) => {
    const { streams } = await start(t)
    await streams.start(numbers(5), { streamId: 's', bufferSize: 2 })
    await eventually('it has finished', () => streams.get('s')?.state === 'finished')
    t.match(streams.get('s'), { firstSequence: 4, lastSequence: 5, bufferedEvents: 2 })
  })

  t.test('knows no stream that was never started, and none that has expired', async (t) => {
    const clock = new ManualClock()
    const { app, streams, gate } = await start(t, { clock, plugin: { bufferTTL: 1_000 } })
    t.equal(streams.get('s'), undefined)
    const client = await app.open('/s')
    gate.release(2)
    await client.waitForEnd()
    clock.advance(999)
    t.ok(streams.get('s'))
    clock.advance(1)
    t.equal(streams.get('s'), undefined)
    t.equal(streams.size, 0)
  })

  t.test('sees only the given owner, or only the ownerless', async (t) => {
    const { streams } = await start(t)
    await streams.start(numbers(1, new StepGate()), { streamId: 'a', owner: 'ada' })
    await streams.start(numbers(1, new StepGate()), { streamId: 'n' })
    t.equal(streams.get('a'), undefined)
    t.equal(streams.get('a', { owner: 'bob' }), undefined)
    t.match(streams.get('a', { owner: 'ada' }), { streamId: 'a', owner: 'ada' })
    t.equal(streams.get('n', { owner: 'ada' }), undefined)
    t.equal(streams.get('n')?.owner, undefined)
  })
})

t.test('list', async (t) => {
  t.test('lists all streams, or those of an owner', async (t) => {
    const { streams } = await start(t)
    const gate = new StepGate()
    await streams.start(numbers(1, gate), { streamId: 'a', owner: 'ada' })
    await streams.start(numbers(1, gate), { streamId: 'b', owner: 'ada' })
    await streams.start(numbers(1, gate), { streamId: 'a', owner: 'bob' })
    await streams.start(numbers(1, gate), { streamId: 'a' })
    const names = (infos: StreamInfo[]): string[] => infos.map((info) => `${info.owner}/${info.streamId}`).toSorted()
    t.same(names(streams.list()), ['ada/a', 'ada/b', 'bob/a', 'undefined/a'])
    t.same(names(streams.list({ owner: 'ada' })), ['ada/a', 'ada/b'])
    t.same(streams.list({ owner: 'eve' }), [])
    t.equal(streams.size, 4)
  })
})

t.test('start', async (t) => {
  t.test('runs without any client, who may come later', async (t) => {
    const { app, streams } = await start(t)
    const info = await streams.start(numbers(3), { streamId: 's' })
    t.match(info, { streamId: 's', state: 'running', clients: 0 })
    await eventually('it has finished', () => streams.get('s')?.state === 'finished')
    const client = await app.open('/s')
    await client.waitForEnd()
    t.same(client.data, ['1', '2', '3'])
  })

  t.test('of an existing name is its info, and starts nothing', async (t) => {
    const { streams } = await start(t)
    let runs = 0
    const handler = (signal: AbortSignal): AsyncGenerator<string> => {
      runs++
      return numbers(1, new StepGate())(signal)
    }
    const first = await streams.start(handler, { streamId: 's' })
    const second = await streams.start(handler, { streamId: 's' })
    t.same(second, { ...first, home: INSTANCES === 1 })
    t.equal(streams.stats().replicas, 0)
    t.equal(runs, 1)
    t.equal(streams.stats().started, 1)
  })

  t.test('without a name makes one', async (t) => {
    const { streams } = await start(t)
    const info = await streams.start(numbers(1, new StepGate()))
    t.match(info.streamId, /^[\w-]{22}$/)
    t.ok(streams.get(info.streamId))
  })

  t.test('acts before it returns', oneInstance('a store has to answer first'), async (t) => {
    const { streams } = await start(t)
    const starting = streams.start(numbers(1, new StepGate()), { streamId: 's' })
    t.ok(streams.get('s'))
    await starting
  })

  t.test('passes signal and context to the handler', async (t) => {
    const { streams } = await start(t)
    let context: unknown
    let signal: unknown
    await streams.start(
      (...args) => {
        ;[signal, context] = args
        return []
      },
      { streamId: 's', owner: 'ada' }
    )
    t.ok(signal instanceof AbortSignal)
    t.match(context, { streamId: 's', owner: 'ada', log: { info: Function } })
  })

  t.test('accepts generators, iterables, and promises of them', async (t) => {
    const { streams } = await start(t)
    const handlers = {
      array: () => ['a', 'b'],
      generator: function* () {
        yield 'a'
        yield 'b'
      },
      async: async function* () {
        yield 'a'
        yield 'b'
      },
      promise: async () => ['a', 'b'],
      stream: () =>
        new Blob(['x'])
          .stream()
          .pipeThrough(
            new TransformStream({ flush: (c) => (c.enqueue('b'), undefined), transform: (_, c) => c.enqueue('a') })
          ) as AsyncIterable<string>
    }
    for (const [streamId, handler] of Object.entries(handlers)) {
      await streams.start(handler as () => Iterable<string>, { streamId })
      await eventually('it has finished', () => streams.get(streamId)?.state === 'finished')
      t.match(streams.get(streamId), { outcome: 'completed', lastSequence: 2 }, streamId)
    }
  })

  t.test('rejects where a request would be refused', async (t) => {
    const { app } = await start(t, { plugin: { maxActiveStreams: 1, whenFull: 'reject' } })
    const { streams } = app.at(0)
    await streams.start(numbers(1, new StepGate()), { streamId: 'a' })
    await t.rejects(streams.start(numbers(1), { streamId: 'b' }), {
      code: 'FST_ERR_RSSE_REGISTRY_FULL',
      statusCode: 503
    })
    t.equal(streams.stats().rejected, 1)
  })

  t.test('rejects a handler that throws synchronously, and no stream exists', async (t) => {
    const { streams } = await start(t)
    const fails = (): never => {
      throw new Error('mine')
    }
    await t.rejects(streams.start(fails, { streamId: 's' }), { message: 'mine' })
    t.equal(streams.size, 0)
  })

  t.test('rejects during and after close', async (t) => {
    const { app, streams } = await start(t)
    await app.fastify.close()
    await t.rejects(streams.start(numbers(1)), { code: 'FST_ERR_RSSE_SHUTTING_DOWN', statusCode: 503 })
  })

  t.test('needs an explicit owner where the plugin has one', async (t) => {
    const { streams } = await start(t, { plugin: { owner: () => 'ada' } })
    await t.rejects(streams.start(numbers(1), { streamId: 's' }), { code: 'FST_ERR_RSSE_OWNER_INVALID' })
    await streams.start(numbers(1, new StepGate()), { streamId: 's', owner: 'ada' })
    t.ok(streams.get('s', { owner: 'ada' }))
    t.equal(streams.get('s'), undefined)
    t.equal(streams.list().length, 1)
  })

  t.test('rejects an option that is wrong', async (t) => {
    const { streams } = await start(t)
    await t.rejects(streams.start(numbers(1), { bufferTTL: -1 }), { code: 'FST_ERR_RSSE_OPTION_INVALID' })
    await t.rejects(streams.start(numbers(1), { streamId: 'a b' }), { code: 'FST_ERR_RSSE_STREAM_ID_INVALID' })
    t.equal(streams.size, 0)
  })
})

t.test('abort', async (t) => {
  t.test('aborts a running stream; its signal has an AbortError with the reason', async (t) => {
    const { app, streams } = await start(t)
    let reason: unknown
    await streams.start(
      async function* (signal) {
        signal.addEventListener('abort', () => (reason = signal.reason))
        yield* numbers(1, new StepGate())(signal)
      },
      { streamId: 's' }
    )
    await turn()
    t.equal(await app.at(0).streams.abort('s', { reason: 'stop button' }), true)
    t.ok(reason instanceof DOMException)
    t.match(reason, { name: 'AbortError', message: 'stop button' })
    await eventually('it has finished', () => streams.get('s')?.state === 'finished')
    t.equal(streams.get('s')?.outcome, 'aborted')
  })

  t.test('is false for a stream that does not run', async (t) => {
    const { app, streams, gate } = await start(t)
    t.equal(await streams.abort('none'), false)
    const client = await app.open('/s')
    gate.release(2)
    await client.waitForEnd()
    await app.untilShared('s')
    t.equal(await streams.abort('s'), false)
    t.equal(streams.get('s')?.outcome, 'completed')
  })

  t.test('is false the second time', async (t) => {
    const { app, streams } = await start(t)
    await app.open('/s')
    t.equal(await streams.abort('s'), true)
    await eventually('it has finished', () => streams.get('s')?.state === 'finished')
    await app.untilShared('s')
    t.equal(await streams.abort('s'), false)
  })

  t.test('reaches only the given owner, or only the ownerless', async (t) => {
    const { streams } = await start(t)
    await streams.start(numbers(1, new StepGate()), { streamId: 's', owner: 'ada' })
    t.equal(await streams.abort('s'), false)
    t.equal(await streams.abort('s', { owner: 'bob' }), false)
    t.equal(await streams.abort('s', { owner: 'ada' }), true)
  })

  t.test('tells the attached clients, and what was sent stays replayable', async (t) => {
    const { app, streams, gate } = await start(t)
    const client = await app.open('/s')
    gate.release(1)
    await client.waitForData(1)
    await streams.abort('s')
    t.equal(await client.waitForEnd(), 'end')
    t.same(
      client.events.map(({ event }) => event),
      ['stream-start', undefined, 'stream-error', 'stream-end']
    )
    await app.untilShared('s')
    const late = await app.open('/s')
    await late.waitForEnd()
    t.same(late.events, client.events)
  })
})

t.test('abortAll aborts what runs and says how much that was', async (t) => {
  const { app, streams, gate } = await start(t)
  const done = await app.open('/done')
  gate.release(2)
  await done.waitForEnd()
  const clients = await Promise.all([app.open('/a'), app.open('/b')])
  await streams.start(numbers(1, new StepGate()), { streamId: 'c', owner: 'ada' })
  t.equal(streams.abortAll('enough'), 3)
  for (const client of clients) t.equal(await client.waitForEnd(), 'end')
  t.match(streams.stats(), { running: 0, completed: 1, aborted: 3 })
  t.equal(streams.abortAll(), 0)
})

t.test('stats', async (t) => {
  t.test('of an unused registry are zeros', async (t) => {
    const { streams } = await start(t)
    const stats = streams.stats()
    t.same(Object.keys(stats).toSorted(), [
      'aborted',
      'attached',
      'bufferedBytes',
      'bufferedEvents',
      'clients',
      'completed',
      'events',
      'evicted',
      'expired',
      'failed',
      'finished',
      'gaps',
      'lost',
      'rejected',
      'removedForCapacity',
      'replayedEvents',
      'replicas',
      'resumed',
      'running',
      'stalledClients',
      'started'
    ])
    for (const [name, value] of Object.entries(stats)) t.equal(value, 0, name)
  })

  t.test('count streams, clients, events, resumptions and gaps', async (t) => {
    const clock = new ManualClock()
    const { app, streams, gate } = await start(t, { clock, plugin: { bufferTTL: 1_000 } })
    const client = await app.open('/s')
    gate.release(1)
    await client.waitForData(1)
    t.match(streams.stats(), {
      running: 1,
      finished: 0,
      clients: 1,
      bufferedEvents: 1,
      started: 1,
      events: 1,
      attached: 1,
      resumed: 0
    })

    const resumed = await client.reconnect({ lastEventId: client.events[0]?.id })
    await resumed.waitForData(1)
    gate.release(1)
    await resumed.waitForEnd()
    await eventually('its client has left', () => streams.stats().clients === 0)
    t.match(streams.stats(), {
      running: 0,
      finished: 1,
      completed: 1,
      clients: 0,
      events: 2,
      attached: 2,
      resumed: 1,
      replayedEvents: 1,
      gaps: 0
    })

    await (await app.open('/s', { lastEventId: 'BBBBBBBB.1' })).waitForEnd()
    t.equal(streams.stats().gaps, 1)
    clock.advance(1_000)
    // A replica lingers.
    if (INSTANCES > 1) clock.advance(4_000)
    t.match(streams.stats(), { finished: 0, expired: 1, bufferedEvents: 0, bufferedBytes: 0 })
  })

  t.test('what looks for streams refuses options that it does not know', async (t) => {
    const { streams } = await startApp(t, () => {})
    const refused = { code: 'FST_ERR_RSSE_OPTION_INVALID' }
    const misspelt = { onwer: 'ada' } as object
    t.throws(() => streams.list(misspelt), refused)
    t.throws(() => streams.list('ada' as never), refused)
    t.throws(() => streams.get('s', misspelt), refused)
    t.throws(() => streams.list({ owner: '' }), { code: 'FST_ERR_RSSE_OWNER_INVALID' })
    await t.rejects(streams.find('s', misspelt), refused)
    await t.rejects(streams.abort('s', misspelt), refused)
    await t.rejects(streams.abort('s', { reason: 5 as never }), refused)
  })

  t.test('balance: what was started runs or has one outcome', async (t) => {
    const { app } = await start(t, { plugin: { maxActiveStreams: 3 } })
    const { streams } = app.at(0)
    await streams.start(() => [], { streamId: 'completes' })
    await streams.start(
      // eslint-disable-next-line require-yield
      async function* () {
        throw new Error('x')
      },
      { streamId: 'fails' }
    )
    await eventually('they have finished', () => streams.stats().running === 0)
    await streams.start(numbers(1, new StepGate()), { streamId: 'aborted' })
    await streams.abort('aborted')
    for (const streamId of ['a', 'b', 'c', 'd']) await streams.start(numbers(1, new StepGate()), { streamId })
    await eventually('the others are let go', () => streams.stats().running === 3)
    const { started, running, completed, failed, aborted, evicted, removedForCapacity } = streams.stats()
    t.same(
      { started, running, completed, failed, aborted, evicted },
      { started: 7, running: 3, completed: 1, failed: 1, aborted: 1, evicted: 1 }
    )
    t.equal(removedForCapacity, 4)
  })
})

t.test('clients leave, the run goes on', async (t) => {
  const { app, streams, gate } = await start(t)
  const [first, second] = await Promise.all([app.open('/s'), app.open('/s')])
  t.equal(streams.get('s')?.clients, 2)
  await first.drop()
  await eventually('a client has left', () => streams.get('s')?.clients === 1)
  await second.drop()
  await eventually('a client has left', () => streams.get('s')?.clients === 0)
  gate.release(2)
  await eventually('it has finished', () => streams.get('s')?.state === 'finished')
  t.match(streams.get('s'), { outcome: 'completed', lastSequence: 2 })
})

t.test('the signal option', async (t) => {
  t.test('aborts the producer, with its reason as the cause', async (t) => {
    const { streams } = await start(t)
    const controller = new AbortController()
    let reason: DOMException | undefined
    await streams.start(
      async function* (signal) {
        signal.addEventListener('abort', () => (reason = signal.reason as DOMException))
        yield* numbers(1, new StepGate())(signal)
      },
      { streamId: 's', signal: controller.signal }
    )
    await turn()
    controller.abort('why')
    t.match(reason, { name: 'AbortError', cause: 'why' })
    await eventually('it has finished', () => streams.get('s')?.state === 'finished')
    t.equal(streams.get('s')?.outcome, 'aborted')
  })

  t.test('that is aborted already starts nothing: the stream finishes aborted', async (t) => {
    let runs = 0
    const app = await startApp(t, (fastify) =>
      fastify.get('/', (_, reply) =>
        reply.sseFromGenerator(() => (runs++, ['x']), { streamId: 's', signal: AbortSignal.abort() })
      )
    )
    const client = await app.open('/')
    t.equal(await client.waitForEnd(), 'end')
    t.same(
      client.events.map(({ event }) => event),
      ['stream-start', 'stream-error', 'stream-end']
    )
    t.equal(client.events.at(-1)?.data, '{"outcome":"aborted"}')
    t.equal(runs, 0)
  })
})

t.test('orphanTimeout: 0 aborts with the last client, and leaves alone what never had one', async (t) => {
  const { app, streams } = await start(t, { plugin: { orphanTimeout: 0 } })
  await streams.start(numbers(1, new StepGate()), { streamId: 'job' })
  const client = await app.open('/s')
  await client.drop()
  await eventually('it has finished', () => streams.get('s')?.state === 'finished')
  t.equal(streams.get('s')?.outcome, 'aborted')
  t.equal(streams.get('job')?.state, 'running')
})

t.test('maxConnectionAge truncates an old response, and the client resumes', async (t) => {
  const clock = new ManualClock()
  const { app, gate } = await start(t, { clock, plugin: { maxConnectionAge: 1_000, heartbeatInterval: 0 } })
  const client = await app.open('/s')
  gate.release(1)
  await client.waitForData(1)
  clock.advance(799)
  t.equal(app.streams.get('s')?.clients, 1, 'never earlier than 80 %')
  clock.advance(1_201)
  t.equal(await client.waitForEnd(), 'truncated')
  const resumed = await client.reconnect()
  gate.release(1)
  t.equal(await resumed.waitForEnd(), 'end')
  t.same([...client.data, ...resumed.data], ['1', '2'])
})
