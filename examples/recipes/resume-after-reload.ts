/**
 * Resume after a page reload. A reconnecting EventSource sends its last event id by itself, a new one after a reload does
 * not: the page keeps it, together with the text, and hands it over in the query.
 */
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin from '../../src/index.ts' // in your project: 'fastify-resumable-sse'
import { type Llm, slowEcho } from './llm.ts'

const page = `<!doctype html>
<meta charset="utf-8">
<title>Resume after a reload</title>
<p id="answer"></p>
<script type="module">
  const fresh = { id: crypto.randomUUID(), lastEventId: '', text: '', isOver: false, isPartial: false }
  const saved = { ...fresh, ...JSON.parse(sessionStorage.getItem('answer') ?? '{}') }
  const answer = document.querySelector('#answer')
  answer.textContent = saved.text
  if (saved.isPartial) tellOfGap()
  if (!saved.isOver) follow() // the server keeps a finished answer for a while only

  function tellOfGap() {
    answer.after('The server does not have all of this answer any more.')
  }

  function follow() {
    const source = new EventSource('/answers/' + saved.id + '?lastEventId=' + saved.lastEventId)
    const save = (event) => {
      saved.lastEventId = event.lastEventId
      sessionStorage.setItem('answer', JSON.stringify(saved))
    }
    source.addEventListener('stream-start', save)
    source.addEventListener('token', (event) => {
      answer.textContent = saved.text += event.data
      save(event)
    })
    source.addEventListener('stream-gap', () => {
      saved.isPartial = true
      tellOfGap()
    })
    source.addEventListener('stream-end', (event) => {
      source.close()
      saved.isOver = true
      save(event)
    })
  }
</script>`

export async function build({ llm = slowEcho }: { llm?: Llm } = {}): Promise<FastifyInstance> {
  const fastify = Fastify()
  await fastify.register(streamPlugin)

  fastify.get('/', (_request, reply) => reply.type('text/html').send(page))

  fastify.get<{ Params: { id: string }; Querystring: { lastEventId?: string } }>('/answers/:id', (request, reply) =>
    reply.sseFromGenerator((signal) => llm('Reload this page while I am speaking.', signal), {
      streamId: request.params.id,
      lastEventId: request.query.lastEventId,
      map: (token) => ({ event: 'token', data: token })
    })
  )
  return fastify
}

if (process.argv[1] === import.meta.filename) {
  const fastify = await build()
  const origin = await fastify.listen({ host: '127.0.0.1', port: Number(process.env['PORT'] ?? 3000) })
  console.log(`${origin}/ in a browser; reload it while the words come`)
}
