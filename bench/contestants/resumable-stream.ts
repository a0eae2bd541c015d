/** resumable-stream with two ioredis clients, as its documentation says; a bare response, as cheap as can be. */
import { createServer, type ServerResponse } from 'node:http'
import { Redis } from 'ioredis'
import { createResumableStreamContext } from 'resumable-stream/ioredis'
import type { Material, Running } from '../harness/contestant.ts'
import { drained } from './hub.ts'
import { listen } from './listen.ts'

export async function start({ source, store }: Material): Promise<Running> {
  if (store === undefined) throw new Error('resumable-stream is nothing without a store')
  const [publisher, subscriber] = [new Redis(store.port), new Redis(store.port)]
  const context = createResumableStreamContext({ waitUntil: () => {}, publisher, subscriber })

  function frames(): ReadableStream<string> {
    const feed = source.feed()
    let id = 0
    return new ReadableStream({
      async pull(controller) {
        const { value, done } = await feed.next()
        if (done === true) controller.close()
        else controller.enqueue(`id: ${++id}\ndata: ${value}\n\n`)
      }
    })
  }

  async function answer(response: ServerResponse): Promise<void> {
    const stream = await context.resumableStream('feed', frames)
    if (stream == null) return void response.writeHead(422).end()
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' }).flushHeaders()
    for await (const chunk of stream) if (!response.write(chunk)) await drained(response)
    response.end()
  }

  const server = createServer((_request, response) => {
    // It rejects where the producer does not answer.
    answer(response).catch(() => response.destroy())
  })
  return { port: await listen(server) }
}
