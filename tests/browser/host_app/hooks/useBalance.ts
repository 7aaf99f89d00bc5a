import { useEffect, useState } from 'react';
import io, { Socket } from 'socket.io-client';

export const useBalance = (token: string) => {
  const [balance, setBalance] = useState<number | null>(null);
  const [socket, setSocket] = useState<Socket | null>(null);

  useEffect(() => {
    // Connect to balance WebSocket
    const newSocket = io('http://localhost:3000/balance', {
      auth: { token }
    });

    // Handle initial balance
    newSocket.on('balance_initial', (data) => {
      setBalance(data.balance);
    });

    // Handle balance updates
    newSocket.on('balance_updated', (data) => {
      setBalance(data.newBalance);
      // Optional: Show notification
      toast.success(`Balance updated: $${data.newBalance}`);
    });

    // Handle transaction completed
    newSocket.on('transaction_completed', (data) => {
      toast.success(`Transaction completed: $${data.amount}`);
    });

    // Handle errors
    newSocket.on('error', (error) => {
      console.error('Socket error:', error);
    });

    setSocket(newSocket);

    // Cleanup on unmount
    return () => {
      newSocket.close();
    };
  }, [token]);

  const refreshBalance = () => {
    socket?.emit('get_current_balance');
  };

  return { balance, refreshBalance };
};
