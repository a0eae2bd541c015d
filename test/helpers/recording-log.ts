import type { FastifyBaseLogger } from 'fastify'

/** One line of a log. */
export interface LogLine {
  readonly level: string
  readonly fields: Record<string, unknown>
  readonly message: string | undefined
}

/** A logger that keeps its lines. */
export function createRecordingLog(): { readonly log: FastifyBaseLogger; readonly lines: LogLine[] } {
  const lines: LogLine[] = []
  const makeLog = (bindings: object): FastifyBaseLogger => {
    const at = (level: string) => (fields: object, message?: string) => {
      lines.push({ level, fields: { ...bindings, ...fields }, message })
    }
    return {
      level: 'trace',
      fatal: at('fatal'),
      error: at('error'),
      warn: at('warn'),
      info: at('info'),
      debug: at('debug'),
      trace: at('trace'),
      silent: () => {},
      child: (child: object) => makeLog({ ...bindings, ...child })
    }
  }
  return { log: makeLog({}), lines }
}
