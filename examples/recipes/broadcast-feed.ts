/**
 * A broadcast feed: one endless stream, any number of readers. A new reader starts with what happens next
 * (`from: 'live'`); one that lost its connection gets what it missed first.
 */
import { EventEmitter, on } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin from '../../src/index.ts' // in your project: 'fastify-resumable-sse'

export async function build(): Promise<FastifyInstance> {
  const fastify = Fastify()
  // A registry that holds nothing but the feed: no other stream can push it out. It never waits for a slow reader, and
  // one that was away for more than the last 1 000 items is told how many it missed.
  await fastify.register(streamPlugin, {
    orphanTimeout: Infinity,
    backpressure: 'none',
    bufferSize: 1_000,
    maxClientsPerStream: 10_000
  })

  const news = new EventEmitter()
  await fastify.sseStreams.start(
    async function* (signal) {
      for await (const [item] of on(news, 'item', { signal })) yield { event: 'item', data: item }
    },
    { streamId: 'news' }
  )

  fastify.get('/feed', (_request, reply) => reply.sseAttach('news', { from: 'live' }))
  // Yours will ask who may publish.
  fastify.post('/feed', (request, reply) => {
    news.emit('item', request.body)
    return reply.code(202).send()
  })
  return fastify
}

if (process.argv[1] === import.meta.filename) {
  const fastify = await build()
  const origin = await fastify.listen({ host: '127.0.0.1', port: Number(process.env['PORT'] ?? 3000) })
  console.log(`curl -N ${origin}/feed, and meanwhile: curl --json '{"news":1}' ${origin}/feed`)
}
