import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.ts'
import { isDatabaseUnavailable } from '../db/errors.ts'
import {
  type Composers,
  createMailQueue,
  createMailWorker,
  type MailQueue,
  type MailWorker,
} from '../mail/queue.ts'
import { createTransport } from '../mail/transport.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Undefined where nothing can be mailed. */
    mail: { queue: MailQueue; composeBy(composers: Composers): void } | undefined
  }
}

export interface MailOptions {
  config: Pick<Config, 'mail'>
}

/** Also how long a mail waits at least, whoever it is for: what it takes to find that out shows in no reply. */
const everyMs = 250
const closingMs = 1_000

export default fp(
  async function mail(app: FastifyInstance, { config }: MailOptions) {
    const { clock, audit } = app
    const { db, sealer } = app.database
    if (config.mail === undefined) {
      app.decorate('mail', undefined)
      return
    }
    const { target, from } = config.mail
    const send = createTransport(target, from)
    let worker: MailWorker | undefined

    let timer: NodeJS.Timeout | undefined
    let round = Promise.resolve()
    function begin(): void {
      round = (worker?.mailAll() ?? Promise.resolve()).catch((err: unknown) => {
        if (!isDatabaseUnavailable(err)) app.log.error({ err }, 'the mails that are due cannot be followed')
      })
      void round.then(() => {
        if (timer) timer = setTimeout(begin, everyMs)
      })
    }
    // Not by a command: it is over before a mail server has answered.
    app.addHook('onListen', async () => {
      if ('outboxFolder' in target)
        app.log.info(`SMTP_URL is not set: mails are left in ${target.outboxFolder}`)
      timer = setTimeout(begin, everyMs)
    })
    app.addHook('onClose', async () => {
      clearTimeout(timer)
      timer = undefined
      worker?.stop()
      // A mail server may think for longer than anybody waits for a process to end: then that mail is sent once more.
      await Promise.race([round, delay(closingMs, undefined, { ref: false })])
    })

    app.decorate('mail', {
      queue: createMailQueue({ clock, sealer }),
      composeBy(composers) {
        worker = createMailWorker({
          db,
          clock,
          sealer,
          composers,
          send,
          onFailure({ kind, attempts, error, isLast }) {
            // What a mail server says may have an address in it.
            const { code, responseCode, name } = error as {
              code?: string
              responseCode?: number
              name?: string
            }
            app.log.warn({ kind, attempts, code: code ?? name, responseCode }, 'a mail was not sent')
            if (isLast) audit.record({ event: 'mail.dropped', kind })
          },
        })
      },
    })
  },
  { name: 'mail', dependencies: ['clock', 'audit', 'database'] },
)
