/** Ten lines of `res.write`, written by somebody who knows: one encoded Buffer for all clients. The 1.00 of the tables. */
import { createServer, type ServerResponse } from 'node:http'
import type { Material, Running } from '../harness/contestant.ts'
import { bodyOf, valueOf } from '../harness/source.ts'
import { HEARTBEAT, drained } from './hub.ts'
import { listen } from './listen.ts'

const HEADERS = { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' }

export async function start({ source, heartbeatMs, history }: Material): Promise<Running> {
  const clients = new Set<ServerResponse>()
  const server = createServer((request, response) => {
    if (request.url === '/ping') {
      response.setHeader('content-type', 'application/json')
      response.end('{"pong":true}')
      return
    }
    response.writeHead(200, HEADERS)
    if (request.url === '/feed') {
      response.flushHeaders()
      clients.add(response)
      response.on('close', () => clients.delete(response))
    } else if (request.url === '/history') {
      void replay(response, Number(request.headers['last-event-id'] ?? 0))
    } else {
      void answer(response)
    }
  })

  async function answer(response: ServerResponse): Promise<void> {
    let id = 0
    for await (const value of source.tokens()) {
      if (!response.write(`id: ${++id}\ndata: ${value}\n\n`)) await drained(response)
    }
    response.end()
  }

  async function broadcast(): Promise<void> {
    let id = 0
    for await (const value of source.feed()) {
      const frame = Buffer.from(`id: ${++id}\ndata: ${value}\n\n`)
      const full: ServerResponse[] = []
      for (const response of clients) if (!response.write(frame)) full.push(response)
      if (full.length > 0) await Promise.all(full.map(drained))
    }
  }

  const frames: Buffer[] = []
  const body = bodyOf(history?.bytes ?? 0, false)
  for (let sequence = 0; sequence < (history?.events ?? 0); sequence++) {
    frames.push(Buffer.from(`id: ${sequence + 1}\ndata: ${valueOf(sequence, body, false)}\n\n`))
  }

  async function replay(response: ServerResponse, after: number): Promise<void> {
    for (let index = after; index < frames.length; index++) {
      if (!response.write(frames[index])) await drained(response)
    }
    response.end()
  }

  void broadcast()
  if (heartbeatMs !== undefined) {
    setInterval(() => {
      for (const response of clients) response.write(HEARTBEAT)
    }, heartbeatMs)
  }
  // As in Fastify: connections that wait for their next turn are not closed.
  server.keepAliveTimeout = 72_000
  return { port: await listen(server) }
}
