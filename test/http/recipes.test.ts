import type { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import type { EventSourceMessage } from 'eventsource-parser'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { build as buildBroadcastFeed } from '../../examples/recipes/broadcast-feed.ts'
import { readEvents } from '../../examples/recipes/fetch-client.ts'
import { build as buildGracefulShutdown } from '../../examples/recipes/graceful-shutdown.ts'
import { build as buildJobThenFollow } from '../../examples/recipes/job-then-follow.ts'
import { build as buildLlmOverEventSource } from '../../examples/recipes/llm-over-eventsource.ts'
import { ask, build as buildLlmOverPost } from '../../examples/recipes/llm-over-post.ts'
import type { Llm } from '../../examples/recipes/llm.ts'
import { build as buildPerUserStreams } from '../../examples/recipes/per-user-streams.ts'
import { build as buildResumeAfterReload } from '../../examples/recipes/resume-after-reload.ts'
import { build as buildStopButton } from '../../examples/recipes/stop-button.ts'
import streamPlugin from '../../src/index.ts'
import { launchChromium } from '../helpers/chromium.ts'
import { runScript } from '../helpers/script.ts'
import { StepGate } from '../helpers/step-gate.ts'

t.test('LLM tokens over POST: an answer that loses its connection arrives whole, from one run', async (t) => {
  const { llm, gate, prompts } = gatedLlm()
  const { origin, cut } = await listen(t, await buildLlmOverPost({ llm }))
  gate.release(3)
  const received: string[] = []
  for await (const token of ask(origin, 'why?')) {
    received.push(token)
    if (received.length === 3) {
      cut()
      gate.release(3)
    }
  }
  t.same(received, ['one ', 'two ', 'three ', 'four ', 'five ', 'six'])
  t.same(prompts, ['why?'], 'one run')
})

t.test('LLM tokens over POST: a request that is sent twice finds the run of the first', async (t) => {
  const { llm, gate, prompts } = gatedLlm()
  const { origin } = await listen(t, await buildLlmOverPost({ llm }))
  const request = {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ id: crypto.randomUUID(), prompt: 'why?' })
  }
  const both = [readAll(`${origin}/answers`, request), readAll(`${origin}/answers`, request)]
  gate.release(6)
  for (const events of await Promise.all(both)) t.equal(textOf(events), 'one two three four five six')
  t.same(prompts, ['why?'])
})

t.test('LLM tokens over POST: a request without a name is refused, and the client says so', async (t) => {
  const { origin } = await listen(t, await buildLlmOverPost())
  await t.rejects(readAll(`${origin}/answers`, { method: 'POST' }), { message: /answered 4\d\d/ })
})

t.test('the client on fetch: a server that has no room is asked again, one that refuses for good is not', async (t) => {
  const fastify = Fastify()
  await fastify.register(streamPlugin, { maxActiveStreams: 1, whenFull: 'reject', retry: 10 })
  const statuses: number[] = []
  fastify.addHook('onResponse', async (_request, { statusCode }) => {
    statuses.push(statusCode)
    await fastify.sseStreams.abort('first')
  })
  fastify.post('/', (_request, reply) => reply.sseFromGenerator(() => [{ event: 'token', data: 'here' }]))
  const { origin } = await listen(t, fastify)
  await fastify.sseStreams.start((signal) => gatedLlm().llm('why?', signal), { streamId: 'first' })
  t.equal(textOf(await readAll(origin, { method: 'POST' })), 'here')
  t.same(statuses, [503, 200])
  await t.rejects(readAll(`${origin}/nowhere`), { message: /answered 404: .*Not Found/ })
})

t.test('LLM tokens over EventSource', async (t) => {
  const { llm, gate, prompts } = gatedLlm()
  const { origin } = await listen(t, await buildLlmOverEventSource({ llm }))
  gate.release(6)
  t.equal(textOf(await readAll(`${origin}/answer?q=why%3F`)), 'one two three four five six')
  t.same(prompts, ['why?'])
  t.equal((await fetch(`${origin}/answer`)).status, 400)
})

t.test('a job runs without a client, and everyone who looks sees all of it', async (t) => {
  let runs = 0
  const job = async function* (): AsyncGenerator<{ event: string; data: unknown }> {
    runs++
    for (let step = 1; step <= 3; step++) yield { event: 'progress', data: { step } }
  }
  const { origin } = await listen(t, await buildJobThenFollow({ job }))
  const response = await fetch(`${origin}/jobs`, { method: 'POST' })
  t.equal(response.status, 202)
  const events = `${origin}${response.headers.get('location')}`
  for (const look of ['first', 'second']) {
    const progress = dataOf(await readAll(events), 'progress')
    t.same(progress, ['{"step":1}', '{"step":2}', '{"step":3}'], `the ${look} one who looks`)
  }
  t.equal(runs, 1)
  t.equal((await fetch(`${origin}/jobs/unknown`)).status, 404)
})

t.test('resume after a page reload: the cursor in the query gets the rest', async (t) => {
  const { llm, gate, prompts } = gatedLlm()
  const { origin } = await listen(t, await buildResumeAfterReload({ llm }))
  gate.release(2)
  const first = await readUntil(`${origin}/answers/a?lastEventId=`, ({ data }) => data === 'two ')
  gate.release(4)
  const rest = await readAll(`${origin}/answers/a?lastEventId=${first.at(-1)?.id}`)
  t.equal(textOf(first) + textOf(rest), 'one two three four five six')
  const after = await readAll(`${origin}/answers/a?lastEventId=${rest.at(-1)?.id}`)
  t.same(
    after.map(({ event }) => event),
    ['stream-end'],
    'a reload after the end'
  )
  t.equal(prompts.length, 1)
})

t.test('resume after a page reload: the page', async (t) => {
  const browser = await launchChromium(t)
  if (!browser) return
  const { llm, gate, prompts } = gatedLlm()
  const { origin } = await listen(t, await buildResumeAfterReload({ llm }))
  const page = await browser.newPage()
  page.on('pageerror', (error) => t.fail(error))
  const shows = (text: string): Promise<unknown> =>
    page.waitForFunction(`document.querySelector('#answer').textContent === ${JSON.stringify(text)}`)
  await page.goto(origin)
  gate.release(2)
  await shows('one two ')
  await page.reload()
  gate.release(2)
  await shows('one two three four ')
  await page.reload()
  gate.release(2)
  await shows('one two three four five six')
  await page.waitForFunction(`JSON.parse(sessionStorage.getItem('answer')).isOver`)
  const requests: string[] = []
  page.on('request', (request) => requests.push(request.url()))
  await page.reload()
  await shows('one two three four five six')
  t.same(requests, [`${origin}/`], 'what is over is not asked for again')
  t.equal(prompts.length, 1)
})

t.test('a stop button ends the run for every client', async (t) => {
  const { llm, gate } = gatedLlm()
  const { origin } = await listen(t, await buildStopButton({ llm }))
  gate.release(2)
  const started = await readUntil(`${origin}/answers/a`, ({ data }) => data === 'two ')
  const rest = readAll(`${origin}/answers/a`, { headers: { 'last-event-id': String(started.at(-1)?.id) } })
  t.equal((await fetch(`${origin}/answers/a`, { method: 'DELETE' })).status, 204)
  t.match(await rest, [
    { event: 'stream-error', data: /STREAM_ABORTED/ },
    { event: 'stream-end', data: '{"outcome":"aborted"}' }
  ])
  t.equal((await fetch(`${origin}/answers/a`, { method: 'DELETE' })).status, 404, 'it does not run any more')
})

t.test('a broadcast feed: new readers start live, old ones get what they missed', async (t) => {
  const { origin } = await listen(t, await buildBroadcastFeed())
  const publish = async (item: number): Promise<void> => {
    const body = JSON.stringify({ item })
    const response = await fetch(`${origin}/feed`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body
    })
    t.equal(response.status, 202)
  }
  await publish(1)
  const early = await readUntil(`${origin}/feed`, isItem(2), { whenOpen: () => publish(2) })
  t.same(dataOf(early, 'item'), ['{"item":2}'])
  await publish(3)
  const resumed = { headers: { 'last-event-id': String(early.at(-1)?.id) } }
  t.same(dataOf(await readUntil(`${origin}/feed`, isItem(3), resumed), 'item'), ['{"item":3}'])
  const late = await readUntil(`${origin}/feed`, isItem(4), { whenOpen: () => publish(4) })
  t.same(dataOf(late, 'item'), ['{"item":4}'])
})

t.test('streams of users: the same name, two owners, and no way across', async (t) => {
  const { llm, gate, prompts } = gatedLlm()
  const { origin } = await listen(t, await buildPerUserStreams({ llm }))
  const login = async (name: string): Promise<{ cookie: string }> => {
    const response = await fetch(`${origin}/login/${name}`, { method: 'POST' })
    return { cookie: response.headers.getSetCookie()[0]?.split(';')[0] ?? '' }
  }
  const [ada, bob] = [await login('ada'), await login('bob')]
  t.equal((await fetch(`${origin}/answers/a`)).status, 401)
  t.equal((await fetch(`${origin}/answers/a`, { headers: { cookie: 'user=ada' } })).status, 401)

  gate.release(12)
  await readAll(`${origin}/answers/a`, { headers: ada })
  t.same(prompts, ['hello ada'])
  const foreign = await fetch(`${origin}/answers/a`, { method: 'DELETE', headers: bob })
  t.equal(foreign.status, 404)
  await readAll(`${origin}/answers/a`, { headers: bob })
  t.same(prompts, ['hello ada', 'hello bob'], 'a run of his own')
})

t.test('graceful shutdown lets a running stream finish, then closes', async (t) => {
  const { llm, gate } = gatedLlm()
  const fastify = await buildGracefulShutdown({ llm })
  const { origin } = await listen(t, fastify)
  gate.release(2)
  const seen: string[] = []
  let closed: Promise<void> | undefined
  for await (const { event, data } of readEvents(`${origin}/answer`)) {
    seen.push(event === 'token' ? data : `${event} ${data}`)
    if (data === 'two ') {
      closed = fastify.close()
      gate.release(4)
    }
  }
  await closed
  t.same(seen.slice(1), ['one ', 'two ', 'three ', 'four ', 'five ', 'six', 'stream-end {"outcome":"completed"}'])
})

t.test('a recipe listens when it is run', async (t) => {
  const recipe = fileURLToPath(new URL('../../examples/recipes/llm-over-eventsource.ts', import.meta.url))
  const line = await runScript(t, recipe, '0').firstLine
  const url = /http:[^']*/.exec(line)?.[0] ?? ''
  t.match(textOf(await readAll(url)), 'You said: hello')
})

/** A model whose tokens come when the test says so; `prompts` has one entry per run. */
function gatedLlm(): { llm: Llm; gate: StepGate; prompts: string[] } {
  const gate = new StepGate()
  const prompts: string[] = []
  const llm: Llm = async function* (prompt, signal) {
    prompts.push(prompt)
    for (const token of ['one ', 'two ', 'three ', 'four ', 'five ', 'six']) {
      await gate.pass(signal)
      yield token
    }
  }
  return { llm, gate, prompts }
}

async function listen(t: Test, fastify: FastifyInstance): Promise<{ origin: string; cut: () => void }> {
  t.teardown(() => fastify.close())
  const sockets = new Set<Socket>()
  fastify.server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  const origin = await fastify.listen({ host: '127.0.0.1', port: 0 })
  return {
    origin,
    cut: () => {
      for (const socket of sockets) socket.destroy()
    }
  }
}

async function readAll(url: string, init?: RequestInit): Promise<EventSourceMessage[]> {
  const events: EventSourceMessage[] = []
  for await (const event of readEvents(url, init)) events.push(event)
  return events
}

/** Reads up to the first event that `isLast` accepts, then leaves. */
async function readUntil(
  url: string,
  isLast: (event: EventSourceMessage) => boolean,
  { whenOpen, ...init }: RequestInit & { whenOpen?: () => Promise<void> } = {}
): Promise<EventSourceMessage[]> {
  const events: EventSourceMessage[] = []
  for await (const event of readEvents(url, init)) {
    events.push(event)
    if (event.event === 'stream-start') await whenOpen?.()
    if (isLast(event)) break
  }
  return events
}

function dataOf(events: EventSourceMessage[], event: string): string[] {
  return events.filter((message) => message.event === event).map(({ data }) => data)
}

function textOf(events: EventSourceMessage[]): string {
  return dataOf(events, 'token').join('')
}

function isItem(item: number): (message: EventSourceMessage) => boolean {
  return ({ data }) => data === `{"item":${item}}`
}
