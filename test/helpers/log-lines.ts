import type { FastifyServerOptions } from 'fastify'

/** One line as pino wrote it. */
export interface WrittenLine {
  readonly level: number
  readonly msg?: string
  readonly streamId?: string
  readonly [key: string]: unknown
}

const WARN = 40

/** The log of a server as its operator reads it: through pino, with its serializers. */
export class LogLines {
  /** What was written, unparsed: nothing hides in a field that a test does not look at. */
  text = ''

  /** To be spread into the options of Fastify. */
  get fastify(): FastifyServerOptions {
    return { logger: { level: 'debug', stream: { write: (line: string) => void (this.text += line) } } }
  }

  get lines(): WrittenLine[] {
    return this.text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as WrittenLine)
  }

  /** The lines that wake somebody up. */
  get complaints(): WrittenLine[] {
    return this.lines.filter(({ level }) => level >= WARN)
  }

  with(message: string): WrittenLine[] {
    return this.lines.filter(({ msg }) => msg === message)
  }
}
