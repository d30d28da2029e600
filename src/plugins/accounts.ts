import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { createLogin, type LogIn } from '../accounts/login.ts'
import { createPasswords } from '../accounts/passwords.ts'
import { createRegistration, type Register } from '../accounts/registration.ts'
import { type Account, findAccount } from '../accounts/users.ts'
import type { Config } from '../config.ts'

declare module 'fastify' {
  interface FastifyInstance {
    accounts: {
      register: Register
      logIn: LogIn
      find(id: string): Promise<Account | undefined>
    }
  }
}

export interface AccountsOptions {
  config: Pick<Config, 'passwords'>
}

export default fp(
  async function accounts(app: FastifyInstance, { config }: AccountsOptions) {
    const { clock, audit, sessions } = app
    const { db } = app.database
    const passwords = await createPasswords(config.passwords)
    app.decorate('accounts', {
      register: createRegistration({ db, clock, passwords, audit }),
      logIn: createLogin({ db, passwords, sessions, audit }),
      find: (id: string) => findAccount(db, id),
    })
  },
  { name: 'accounts', dependencies: ['clock', 'audit', 'database', 'sessions'] },
)
